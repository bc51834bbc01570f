"""Vectors and strings to pairs: normalising, dedup, language ID, kNN, margins, retrieval, rules, evaluation."""
