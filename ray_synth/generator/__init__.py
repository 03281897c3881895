"""Real images in, a generator out; then a plan in, chunks of synthetic images out."""
