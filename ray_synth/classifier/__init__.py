"""Real and synthetic images with regions in, a trained classifier out."""
