"""A run somewhere else: what travels there, the job that does it, and its results brought back."""
