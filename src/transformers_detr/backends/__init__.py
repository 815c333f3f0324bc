"""Backends that export models and run them, with the interface and the outputs of the PyTorch model."""
