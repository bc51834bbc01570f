"""From neighbours to pairs: margins, retrieval, choice in bounded memory, suspicious pairs."""
