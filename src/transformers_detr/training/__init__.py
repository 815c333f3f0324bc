"""Training: arguments, recipes, augmentation, batches and the loop."""
