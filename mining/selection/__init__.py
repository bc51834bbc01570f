"""From neighbours to pairs: margins, retrieval, choice in bounded memory, suspicious pairs.

The words that a user chooses among stand here, so that settings can name them without loading what computes.
"""

MARGINS = ("ratio", "distance", "absolute")
"""Margin functions, see `emsmine.mining.selection.margin`."""
RETRIEVALS = ("max", "forward", "backward", "intersect")
"""Ways to choose among candidates, see `emsmine.mining.selection.retrieve.select`."""
SCORES = ("probability", "margin")
"""What pairs are chosen and sorted by; the probability is there for rescored pairs only."""
