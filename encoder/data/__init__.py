"""Pairs for training: files, tokenised cache, sampling, hard negatives, a teacher's vectors."""
