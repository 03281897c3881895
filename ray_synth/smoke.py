"""An experiment in, the same experiment shrunk out: minutes on a CPU, with no download, data set or model of its own.

What it is made of stays: the kind of generator and what guides it, filters, the classifier's algorithm and recipe, the
space and the sampler of the sweep. What is big is replaced: images by scikit-learn's digits, pretrained models by tiny
ones of random weights, numbers by small ones. The figures mean nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from ray_synth.config import (
    Classifier,
    Data,
    Dimension,
    Distill,
    Experiment,
    Lira,
    PartitionSettings,
    Sweep,
    encoder_in,
)
from ray_synth.errors import InputError
from ray_synth.features.clip import TINY
from ray_synth.generator import Generator, generator_of, tiny
from ray_synth.hardware.machine import cache_folder
from ray_synth.torch_ops import import_torchvision

WARNING = "smoke run: tiny models, tiny data; the figures below mean nothing, they only show that the file runs"
SUFFIX = "-smoke"
SHOTS, IMAGES, JUDGED, SIDE = 4, 8, 16, 16  # images a class: real, synthetic, validation and test; pixels a side
CLUSTERS, TRIALS, UPDATES, EPOCHS, BATCH = 20, 4, 20, 2, 16
SHADOWS = 6
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
        "generator": _generator_of(e).small(models),
        "generate": generate,
        "partition": _partition(e.partition, models),
        "classifier": classifier,
        "estimate": e.estimate.model_dump()
        | {
            "max_ratio": min(e.estimate.max_ratio, ratio),
            "pilot_ratio": min(e.estimate.pilot_ratio, ratio),
            "features": _features(e.estimate.features, models),
        },
        "sweep": _sweep(e.sweep, ratio),
        "evaluate": {
            "repeats": 1,
            "features": _features(e.evaluate.features, models),
            "baselines": e.evaluate.baselines,
            "ood": {"corruptions": e.evaluate.ood.corruptions},  # other sets have other classes than the digits
            "copies": e.evaluate.copies.model_dump() | {"features": _features(e.evaluate.copies.features, models)},
            "lira": _lira(e.evaluate.lira),
        },
        "distill": e.distill and _distill(e.distill),
    }
    return Experiment.model_validate(raw)


def _lira(lira: Lira | None) -> dict[str, Any] | None:
    return {**lira.model_dump(), "shadows": SHADOWS} if lira is not None else None


def _distill(distill: Distill) -> dict[str, Any]:
    """Methods and labels stay; networks are small ones that have BatchNorm."""
    raw = distill.model_dump()
    models = tuple(
        dict.fromkeys(
            "resnet8" if model.startswith(("resnet", "timm")) else "small_cnn" for model in distill.posttrain.models
        )
    )
    raw["images_per_class"] = min(distill.images_per_class, 2)
    raw["teacher"] |= {
        "model": "resnet8",
        "weights": None,
        "image_size": None,
        "updates": UPDATES,
        "epochs": min(distill.teacher.epochs, EPOCHS),
        "evaluations": 1,
        "batch_size": min(distill.teacher.batch_size, BATCH),
        "num_workers": 1,
    }
    raw["recover"] |= {"iterations": min(distill.recover.iterations, 5), "jitter": 1}
    raw["relabel"]["top_k"] = distill.relabel.top_k and min(distill.relabel.top_k, 5)
    raw["posttrain"] |= {
        "models": models,
        "repeats": 1,
        "epochs": min(distill.posttrain.epochs, 3),
        "batch_size": BATCH,
    }
    return raw


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


def _generator_of(experiment: Experiment) -> Generator[Any]:
    return generator_of(experiment.generator, experiment.generate, class_names=(), shape=(SIDE, SIDE, 1))


def _generate(experiment: Experiment, models: Path) -> dict[str, Any]:
    generate = experiment.generate
    raw = (
        generate.model_dump()
        | _generator_of(experiment).small_sampling(IMAGES)
        | {
            "images_per_class": generate.images_per_class and min(generate.images_per_class, IMAGES),
            "chunk_size": min(generate.chunk_size, 4),
            "num_actors": [1, min(generate.num_actors[1], 2)] if isinstance(generate.num_actors, tuple) else 1,
            "gpus_per_actor": min(generate.gpus_per_actor, 1.0),
        }
    )
    raw["filter"]["features"] = _features(generate.filter.features, models)
    if generate.filter.clip is not None:
        raw["filter"]["clip"] |= {"model": TINY, "weights": str(models / "clip.safetensors"), "rule": "above_chance"}
        raw["max_attempts"] = ATTEMPTS
    return raw


def _partition(partition: PartitionSettings, models: Path) -> dict[str, Any]:
    return {
        "num_clusters": partition.num_clusters and min(partition.num_clusters, CLUSTERS),
        "clusters_per_class": min(partition.clusters_per_class, CLUSTERS / 10),
        "iterations": min(partition.iterations, 20),
        "features": _features(partition.features, models),
    }


def _features(word: str, models: Path) -> str:
    return f"open_clip:{TINY}:{models / 'clip.safetensors'}" if encoder_in(word) else word


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
        "concurrency": None,  # as many as fit: one CPU must do
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
    folder, e = models_folder(), experiment
    makers = dict(_generator_of(e).tiny_models())
    words = (e.partition.features, e.estimate.features, e.evaluate.features, e.evaluate.copies.features)
    encoded = any(encoder_in(word) for word in (*words, e.generate.filter.features))
    if e.generate.filter.clip is not None or encoded or e.classifier.model.startswith("open_clip:"):
        makers["stable-diffusion"] = tiny.tiny_pipeline
        makers["clip.safetensors"] = lambda place: tiny.tiny_open_clip(place, folder / "stable-diffusion")
    for name, maker in makers.items():
        if not (folder / name).exists():
            _make(folder, name, maker)
    return folder


def models_folder() -> Path:
    """Named by what the models are made by: another version makes its own."""
    code = Path(tiny.__file__).read_bytes() + Path(__file__).read_bytes()
    versions = " ".join(metadata.version(package) for package in MADE_WITH)
    made_by = hashlib.sha256(code + versions.encode()).hexdigest()[:12]
    return cache_folder() / "ray_synth" / f"tiny-{made_by}"


def _make(folder: Path, name: str, maker: Callable[[Path], object]) -> None:
    """Aside, then renamed: two runs may make the same model at once, and the first one's stays."""
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
            maker(aside)
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
