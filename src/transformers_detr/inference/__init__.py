"""Detection and segmentation of images: predictors, results, sources, videos, tracks."""
