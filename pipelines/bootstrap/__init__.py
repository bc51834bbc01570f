"""Training and mining in rounds."""
