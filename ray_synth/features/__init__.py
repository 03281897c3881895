"""Encoders of images behind one door (`encoders.encoder_of`), kept on disk by content (`cache.cached`)."""
