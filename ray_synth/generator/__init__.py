"""Generators of images, one class a kind behind one interface; what they are fitted with and loaded from."""

from ray_synth.generator import folder, pixel, stable_diffusion
from ray_synth.generator.base import KINDS, Generator, generator_of, register

__all__ = ["KINDS", "Generator", "folder", "generator_of", "pixel", "register", "stable_diffusion"]
