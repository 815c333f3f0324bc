"""Explanations of predictions: attention arrays, figures, and the boxes of each query over a dataset."""
