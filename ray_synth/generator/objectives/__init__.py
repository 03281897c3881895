"""What a generator is trained towards: denoising, and matching of distributions."""
