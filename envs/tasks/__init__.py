"""Tasks: the built-in ones and the one that users declare."""
