"""Pictures of what DETR does: where its decoder and encoder look, and where each query finds its objects."""
