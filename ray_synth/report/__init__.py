"""Results in, pictures and one HTML file out."""
