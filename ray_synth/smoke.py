"""An experiment in, the same experiment shrunk out: minutes on a CPU, with no download, data set or model of its own.

What it is made of stays: the kind of generator and what guides it, filters, the classifier's algorithm and recipe, the
space and the sampler of the sweep. What is big is replaced: images by scikit-learn's digits, pretrained models by tiny
ones of random weights, numbers by small ones. The figures mean nothing.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from ray_synth.config import (
    Classifier,
    Data,
    Diffusion,
    Dimension,
    Experiment,
    ImageFolder,
    PartitionSettings,
    StableDiffusion,
    Sweep,
)
from ray_synth.errors import InputError
from ray_synth.features.clip import TINY
from ray_synth.torch_ops import import_torchvision

WARNING = "smoke run: tiny models, tiny data; the figures below mean nothing, they only show that the file runs"
SUFFIX = "-smoke"
SHOTS, IMAGES, JUDGED, SIDE = 4, 8, 16, 16  # images a class: real, synthetic, validation and test; pixels a side
CLUSTERS, TRIALS, UPDATES, EPOCHS, BATCH = 20, 4, 20, 2, 16
ATTEMPTS = 50  # per image: what a CLIP filter of random weights keeps is luck
MADE_WITH = ("diffusers", "open_clip_torch", "torch", "transformers")


def smoke_name(name: str) -> str:
    """Another name, and so another folder: what is shrunk is never mixed with the run itself."""
    return name if name.endswith(SUFFIX) else name[: 100 - len(SUFFIX)] + SUFFIX


def shrunk(experiment: Experiment, models: Path) -> Experiment:
    """The experiment in small. models: where `tiny_models` lie, or will lie."""
    e = experiment
    data, generate = _data(e.data), _generate(e, models)
    classifier = _classifier(e.classifier, models)
    ratio = (generate["images_per_class"] or IMAGES) / data["shots"]  # the largest that there are images for
    raw = {
        "name": smoke_name(e.name),
        "seed": e.seed,
        "data": data,
        "generator": _generator(e, models),
        "generate": generate,
        "partition": _partition(e.partition, models),
        "classifier": classifier,
        "estimate": e.estimate.model_dump()
        | {"max_ratio": min(e.estimate.max_ratio, ratio), "pilot_ratio": min(e.estimate.pilot_ratio, ratio)},
        "sweep": _sweep(e.sweep, ratio),
        "evaluate": e.evaluate.model_dump() | {"repeats": 1},
    }
    return Experiment.model_validate(raw)


def _data(data: Data) -> dict[str, Any]:
    side = data.image_size if data.kind == "digits" else SIDE
    return {
        **data.model_dump(include={"fit", "use_real", "generator_split", "on_leak"}),
        "kind": "digits",
        "image_size": side and min(side, SIDE),
        "shots": min(data.shots or SHOTS, SHOTS),
        "max_validation": JUDGED,
        "max_test": JUDGED,
    }


def _generator(experiment: Experiment, models: Path) -> dict[str, Any]:
    generator = experiment.generator
    raw = generator.model_dump()
    if isinstance(generator, ImageFolder):
        return {**raw, "path": str(models / "digits")}
    if isinstance(generator, Diffusion):
        return {
            **raw,
            "block_out_channels": [8, 16][: len(generator.block_out_channels)],
            "layers_per_block": 1,
            "steps": min(generator.steps, 60),
            "batch_size": min(generator.batch_size, BATCH),
        }
    raw |= {
        "model": str(models / "stable-diffusion"),
        "revision": None,
        "image_size": None,
        "class_words": {},
        "lora": None,
        "dtype": "auto",
        "compile": False,
        "allow_pickle": False,
    }
    if generator.captions is not None:
        raw["captions"] = {"model": {"model": str(models / "captioner")}, "max_new_tokens": 4}
    if generator.visual_guidance is not None:
        raw["visual_guidance"]["encoder"] = {"model": str(models / "vision-encoder")}
    return raw


def _generate(experiment: Experiment, models: Path) -> dict[str, Any]:
    generate, generator = experiment.generate, experiment.generator
    raw = generate.model_dump() | {
        "images_per_class": generate.images_per_class and min(generate.images_per_class, IMAGES),
        "chunk_size": min(generate.chunk_size, 4),
        "num_actors": [1, min(generate.num_actors[1], 2)] if isinstance(generate.num_actors, tuple) else 1,
        "gpus_per_actor": min(generate.gpus_per_actor, 1.0),
    }
    if not isinstance(generator, ImageFolder):
        strength = generator.strength if isinstance(generator, StableDiffusion) else None
        # A weak latent prior takes few of the steps, and at least one must be left.
        steps = max(4, math.ceil(1 / (strength or 1)))
        raw["num_inference_steps"] = min(generate.num_inference_steps, steps)
        raw["batch_size"] = min(generate.batch_size or IMAGES, IMAGES)
    if generate.filter.clip is not None:
        raw["filter"]["clip"] |= {"model": TINY, "weights": str(models / "clip.safetensors"), "rule": "above_chance"}
        raw["max_attempts"] = ATTEMPTS
    return raw


def _partition(partition: PartitionSettings, models: Path) -> dict[str, Any]:
    return {
        "num_clusters": partition.num_clusters and min(partition.num_clusters, CLUSTERS),
        "clusters_per_class": min(partition.clusters_per_class, CLUSTERS / 10),
        "iterations": min(partition.iterations, 20),
        "features": f"open_clip:{TINY}:{models / 'clip.safetensors'}" if partition.encoder else partition.features,
    }


def _classifier(classifier: Classifier, models: Path) -> dict[str, Any]:
    raw = classifier.model_dump() | {
        "model": "small_cnn",
        "weights": None,
        "image_size": None,
        "lora": None,
        "updates": min(classifier.updates, UPDATES),
        "epochs": min(classifier.epochs, EPOCHS),
        "evaluations": min(classifier.evaluations, 2),
        "batch_size": min(classifier.batch_size, BATCH),
        "num_workers": 1,
    }
    if classifier.model.startswith("open_clip:"):
        raw |= {"model": f"open_clip:{TINY}", "weights": str(models / "clip.safetensors")}
        if classifier.lora is not None:
            raw["lora"] = classifier.lora.model_dump() | {"r": min(classifier.lora.r, 4)}
    return raw


def _sweep(sweep: Sweep, ratio: float) -> dict[str, Any]:
    """ratio: the largest that there are images for."""
    space = {name: _dimension(name, dimension, ratio) for name, dimension in sweep.searched.items()}
    for name, dimension in space.items():
        if dimension and "tied_to" in dimension and space[dimension["tied_to"]] is None:
            space[name] = None
    trials = min(sweep.num_trials, TRIALS)
    if sweep.sampler == "grid":  # some ratios, and of everything else the first choice
        for name, dimension in space.items():
            if dimension and "choices" in dimension:
                dimension["choices"] = dimension["choices"][: TRIALS if name == "synthetic_ratio" else 1]
                trials = len(dimension["choices"]) if name == "synthetic_ratio" else trials
    return sweep.model_dump() | {
        "num_trials": trials,
        "max_ratio": min(sweep.max_ratio, ratio),
        "space": {name: space.get(name) for name in sweep.space},
        "repeats": 1,
        "concurrency": min(sweep.concurrency or 2, 2),
        "gpus_per_trial": min(sweep.gpus_per_trial, 1.0),
        "workers_per_trial": 1,
    }


# Settings of the classifier's size: the shrunk one keeps its own.
SIZES = ("model", "weights", "image_size", "updates", "epochs", "batch_size", "lora")


def _dimension(name: str, dimension: Dimension, ratio: float) -> dict[str, Any] | None:
    """What the sweep may give a setting, as far as it fits into the shrunk experiment; None where it stays fixed."""
    if name.split(".")[0] in SIZES:
        return None
    raw = dimension.model_dump(exclude_none=True)
    limit = {"synthetic_ratio": ratio, "num_clusters": CLUSTERS, "clusters_per_class": CLUSTERS / 10}.get(name)
    if limit is not None and dimension.choices is not None:
        raw["choices"] = [value for value in dimension.choices if value <= limit] or [limit]
    elif limit is not None:
        raw |= {end: min(raw[end], limit) for end in ("low", "high") if end in raw}
    return raw


def tiny_models(experiment: Experiment) -> Path:
    """The folder with the tiny models that the experiment in small takes; those that are missing are made, in seconds.

    It is kept between runs, so that a smoke run can be repeated and resumed as any other.
    """
    folder = models_folder()
    for name in _needed(experiment):
        if not (folder / name).exists():
            _make(folder, name)
    return folder


def models_folder() -> Path:
    """Named by what the models are made by: another version makes its own."""
    from ray_synth.generator import tiny

    code = Path(tiny.__file__).read_bytes() + Path(__file__).read_bytes()
    versions = " ".join(metadata.version(package) for package in MADE_WITH)
    made_by = hashlib.sha256(code + versions.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "ray_synth" / f"tiny-{made_by}"


def _needed(experiment: Experiment) -> list[str]:
    e, needed = experiment, []
    if isinstance(e.generator, ImageFolder):
        needed.append("digits")
    if isinstance(e.generator, StableDiffusion):
        needed.append("stable-diffusion")
        needed += ["captioner"] if e.generator.captions is not None else []
        needed += ["vision-encoder"] if e.generator.visual_guidance is not None else []
    if e.generate.filter.clip is not None or e.partition.encoder or e.classifier.model.startswith("open_clip:"):
        needed += ["stable-diffusion", "clip.safetensors"]  # the latter is made for images of the former
    return list(dict.fromkeys(needed))


def _make(folder: Path, name: str) -> None:
    """Aside, then renamed: two runs may make the same model at once, and the first one's stays."""
    from ray_synth.generator import tiny

    makers = {
        "digits": _noisy_digits,
        "stable-diffusion": tiny.tiny_pipeline,
        "captioner": tiny.tiny_captioner,
        "vision-encoder": tiny.tiny_vision_encoder,
        "clip.safetensors": lambda place: tiny.tiny_open_clip(place, folder / "stable-diffusion"),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=folder, prefix=".")) / name
    except OSError as error:
        raise InputError(
            f"a smoke run keeps its tiny models in {folder}, which cannot be written: {error.strerror}; "
            "type XDG_CACHE_HOME=DIR before the command"
        ) from None
    _no_bars()
    import torch

    try:
        with torch.random.fork_rng(devices=[]):  # the models are seeded, and the run must not notice
            makers[name](aside)
        if not (folder / name).exists():
            os.replace(aside, folder / name)
    except OSError:
        if not (folder / name).exists():  # else another run was faster
            raise
    finally:
        shutil.rmtree(aside.parent, ignore_errors=True)


def _no_bars() -> None:
    """Of saving and loading models that take no time."""
    import_torchvision()
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    of_diffusers.disable_progress_bar()
    of_transformers.disable_progress_bar()


def _noisy_digits(folder: Path) -> None:
    """A folder of class folders: digits with noise on them, so that none is a copy of a real one."""
    import numpy as np
    from PIL import Image

    from ray_synth.data.readers import read_digits

    digits, random = read_digits(), np.random.default_rng(0)
    for label, name in enumerate(digits.class_names):
        (folder / name).mkdir(parents=True)
        for i, image in enumerate(digits.images[digits.labels == label][: 2 * IMAGES]):
            noisy = np.clip(image[..., 0] + random.normal(0, 40, image.shape[:2]), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / name / f"{i:03d}.png")
