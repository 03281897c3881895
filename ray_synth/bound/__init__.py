"""Arrays in, a predicted ratio out: the bounds of Shidani et al., 2025, the probe, and what they say together."""
