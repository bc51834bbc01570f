"""The second look: a learned score that reads both sentences of a pair, word by word."""
