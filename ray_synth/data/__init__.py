"""Labelled images: read from many formats, split, and checked to share no image between the sides."""
