"""Classifiers and image sets in, named numbers out. The test set is read here, once, and nowhere else."""
