"""Search through a FAISS index: its choice, training, search, and the sample that it is audited with."""
