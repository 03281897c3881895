"""RatioBench: cells of (dataset, number of real images, generator), each with its measured accuracy over ratios."""
