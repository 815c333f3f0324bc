"""Models for other runtimes: graphs, their precisions, and how far they are from PyTorch."""
