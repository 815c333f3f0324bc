"""Model cards: what a repository on the Hub says about its model."""
