"""Image sources in, disjoint labelled image sets out."""
