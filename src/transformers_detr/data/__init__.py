"""Labeled images: generated scenes, readers of the usual formats, and the dataset doctor."""
