"""Arrays in, a predicted ratio out: the bounds of paper 003, the probe, and what they say together."""
