"""Training: workflow, trainer, arguments, recipes, augmentation and sampling."""
