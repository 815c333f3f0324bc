"""Hugging Face Hub: loading, published checkpoints, bundled model, custom code, push, model cards."""
