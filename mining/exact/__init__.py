"""Exact k nearest neighbours in both directions, from one matrix product a tile, on a processor or a GPU."""
