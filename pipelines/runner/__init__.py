"""Running stages on a directory: what is done, what runs, and what is said about it."""
