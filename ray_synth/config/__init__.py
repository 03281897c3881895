"""An experiment file in, a checked `Experiment` out: one model per section, unknown keys refused by name."""

from ray_synth.config.classifier import SMALL_RESNET, Augment, Classifier, Lora, PartitionSettings, Schedule, Targets
from ray_synth.config.data import FORMATS, Columns, Data
from ray_synth.config.distill import RECOVERED, Distill, Method, PostTrain, Recover, Relabel, Teacher
from ray_synth.config.experiment import Copies, Evaluate, Experiment, Lira, with_absolute_paths
from ray_synth.config.file import load_experiment
from ray_synth.config.finetune import LoraTraining
from ray_synth.config.generator import (
    GENERATORS,
    SAMPLING,
    Captions,
    ClipFilter,
    Diffusers,
    DiffusersSettings,
    Diffusion,
    Filter,
    Generate,
    GeneratorSettings,
    ImageFolder,
    StableDiffusion,
    VisualGuidance,
)
from ray_synth.config.ood import CORRUPTIONS, IMAGENET_SETS, Ood, OodSet
from ray_synth.config.overrides import parse_assignments
from ray_synth.config.section import FORMAT, changed, digest, said
from ray_synth.config.sweep import SEARCHED, Dimension, Sweep
from ray_synth.config.words import RANDOM, encoder_in, file_in

__all__ = [
    "CORRUPTIONS",
    "FORMAT",
    "FORMATS",
    "GENERATORS",
    "IMAGENET_SETS",
    "RANDOM",
    "RECOVERED",
    "SAMPLING",
    "SEARCHED",
    "SMALL_RESNET",
    "Augment",
    "Captions",
    "Classifier",
    "ClipFilter",
    "Columns",
    "Copies",
    "Data",
    "Diffusers",
    "DiffusersSettings",
    "Diffusion",
    "Dimension",
    "Distill",
    "Evaluate",
    "Experiment",
    "Filter",
    "Generate",
    "GeneratorSettings",
    "ImageFolder",
    "Lira",
    "Lora",
    "LoraTraining",
    "Method",
    "Ood",
    "OodSet",
    "PartitionSettings",
    "PostTrain",
    "Recover",
    "Relabel",
    "Schedule",
    "StableDiffusion",
    "Sweep",
    "Targets",
    "Teacher",
    "VisualGuidance",
    "changed",
    "digest",
    "encoder_in",
    "file_in",
    "load_experiment",
    "parse_assignments",
    "said",
    "with_absolute_paths",
]
