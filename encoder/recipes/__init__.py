"""Training recipes that ship with emsmine."""
