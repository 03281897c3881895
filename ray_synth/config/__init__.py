"""An experiment file in, a checked `Experiment` out: one model per section, unknown keys refused by name."""

from ray_synth.config.classifier import Augment, Classifier, Lora, PartitionSettings, Schedule, Targets
from ray_synth.config.data import FORMATS, Data
from ray_synth.config.experiment import Experiment, with_absolute_paths
from ray_synth.config.file import load_experiment, parse_assignments
from ray_synth.config.generator import (
    GENERATORS,
    SAMPLING,
    Captions,
    ClipFilter,
    Diffusion,
    Filter,
    Generate,
    GeneratorSettings,
    ImageFolder,
    StableDiffusion,
    VisualGuidance,
)
from ray_synth.config.section import FORMAT, changed, digest, said
from ray_synth.config.sweep import SEARCHED, Dimension, Sweep

__all__ = [
    "FORMAT",
    "FORMATS",
    "GENERATORS",
    "SAMPLING",
    "SEARCHED",
    "Augment",
    "Captions",
    "Classifier",
    "ClipFilter",
    "Data",
    "Diffusion",
    "Dimension",
    "Experiment",
    "Filter",
    "Generate",
    "GeneratorSettings",
    "ImageFolder",
    "Lora",
    "PartitionSettings",
    "Schedule",
    "StableDiffusion",
    "Sweep",
    "Targets",
    "VisualGuidance",
    "changed",
    "digest",
    "load_experiment",
    "parse_assignments",
    "said",
    "with_absolute_paths",
]
