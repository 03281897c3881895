"""A plan in, chunks of synthetic images out, whatever kind of generator samples them."""
