"""Small real inputs that many tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from ray_synth.config import Data, Experiment
from ray_synth.data.images import ImageSet
from ray_synth.data.readers import read_digits
from ray_synth.data.splits import Splits, split
from ray_synth.torch_ops import import_torchvision

import_torchvision()  # tests import diffusers themselves
hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "sweeps" / "digits.yaml"

# A run of every stage in half a minute.
TINY = {
    "generator.block_out_channels": [8, 16],
    "generator.steps": 150,  # a checkpoint at 100
    "generator.batch_size": 16,
    "generate.images_per_class": 8,
    "generate.num_inference_steps": 4,
    "generate.chunk_size": 3,
    "data.shots": 4,
    "classifier.updates": 24,
    "classifier.evaluations": 3,
    "classifier.batch_size": 16,
    "sweep.num_trials": 5,
    "evaluate.repeats": 1,
}


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    return read_digits()


@pytest.fixture(scope="session")
def splits(digits: ImageSet) -> Splits:
    return split(digits, Data(), 0)


@pytest.fixture(scope="session", autouse=True)
def _for_all_tests() -> Iterator[None]:
    """Also for what fixtures of a module or a session make: one run is compared with another."""
    with pytest.MonkeyPatch.context() as patch:
        # Tests pack a few kilobytes: a disk that is nearly full is no failure.
        patch.setattr("ray_synth.data.packed.SPARED", 0.0)
        # A tenth of a second look: what it says is measured by RatioBench, and few tests ask about it.
        patch.setattr("ray_synth.bound.networks.CONVOLVED_UPDATES", 60)
        yield


@pytest.fixture
def experiment() -> Experiment:
    return Experiment(name="tests")


@pytest.fixture
def measuring_data() -> Path:
    folder = os.environ.get("RAY_SYNTH_DATA")
    if not folder:
        pytest.skip("RAY_SYNTH_DATA is not set: no measuring data here")
    return Path(folder)


@pytest.fixture
def image_folder(tmp_path: Path, digits: ImageSet) -> Path:
    """DIR/class_name/*.png of real digits: 3 classes of 30."""
    return write_folder(tmp_path / "photos", digits, classes=(0, 1, 2), each=30)


def write_folder(root: Path, images: ImageSet, *, classes: tuple[int, ...], each: int, skip: int = 0) -> Path:
    from PIL import Image

    for label in classes:
        folder = root / f"digit {label}"
        folder.mkdir(parents=True)
        rows = np.flatnonzero(images.labels == label)[skip : skip + each]
        for i, image in enumerate(images.images()[rows]):
            Image.fromarray(image[..., 0]).save(folder / f"{i:03d}.{('png', 'PNG', 'Png')[i % 3]}")
    return root
