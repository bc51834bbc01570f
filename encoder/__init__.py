"""Sentences to vectors: encoders, their training and their files."""
