"""A data set in, a few images a class that a classifier can be trained on in its place out."""
