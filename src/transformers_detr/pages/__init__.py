"""Pages: one HTML file each, with all pictures inside, readable without a network."""
