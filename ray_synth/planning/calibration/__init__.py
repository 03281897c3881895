"""Pieces of a run in, how long each takes on this machine out."""
