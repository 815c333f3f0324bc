"""The model and its processor: a flat set of files that also travels to the Hub as custom code."""
