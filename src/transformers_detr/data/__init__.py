"""Datasets of labeled images: readers of the usual formats, checks, corrected copies, synthetic scenes."""
