"""Seconds and prices, each with its uncertainty and its origin: how one is measured, and what is published."""
