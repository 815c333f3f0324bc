"""Exported models in place of PyTorch ones: called the same way, with the same outputs."""
