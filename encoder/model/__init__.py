"""The EMS network, its tokeniser and its directory on disk."""
