"""Publishing a model: which files travel, what they must prove first, and how they get to the Hub."""
