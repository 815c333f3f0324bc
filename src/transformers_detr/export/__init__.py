"""Export to other runtimes: graphs, their precisions, and comparison with PyTorch."""
