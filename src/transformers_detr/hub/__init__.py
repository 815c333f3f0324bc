"""The Hugging Face Hub: loading, published checkpoints, the bundled model, custom code, push, model cards."""
