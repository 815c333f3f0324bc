"""HTTP service with a demo page."""
