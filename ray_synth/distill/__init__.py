"""Real images in, a few distilled ones a class out, by the Wasserstein metric (Liu et al., 2025); and baselines."""
