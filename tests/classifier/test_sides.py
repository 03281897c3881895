"""What a training draws follows from its seed and its step: held in memory or read from files, killed or not."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ray_synth.classifier import sides
from ray_synth.classifier.experiment_data import ExperimentData
from ray_synth.classifier.mixture import TrainingData
from ray_synth.classifier.setting import default_setting
from ray_synth.classifier.sides import Order, Side
from ray_synth.classifier.train import fit
from ray_synth.config import Classifier, load_experiment
from ray_synth.data import images
from ray_synth.data import packed as packs
from ray_synth.data.images import ImageSet
from ray_synth.data.listing import FileImages
from ray_synth.data.opening import BrokenImages
from ray_synth.data.packed import PackedImages
from ray_synth.data.source import ImageSource
from ray_synth.data.splits import Splits
from ray_synth.training.augment import Augmentation
from ray_synth.training.team import Team

from ..conftest import DIGITS

CPU = torch.device("cpu")


@given(st.integers(1, 12), st.integers(1, 20), st.integers(0, 9), st.lists(st.integers(0, 30), max_size=5))
def test_an_order_is_that_of_shuffled_passes_wherever_one_enters_it(
    count: int, batch: int, seed: int, steps: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    passes = -(-batch * 31 // count)
    whole = np.concatenate([rng.permutation(count) for _ in range(passes)])
    order = Order(count, seed)
    for step in [*steps, 0, 1, 2, 30]:
        places = np.arange(step * batch, (step + 1) * batch)
        assert np.array_equal(order.rows(places), whole[places])
        assert len(order._passes) <= batch // count + 2


class Watched(FileImages):
    """Counts what is decoded."""

    def images(self, rows: Any = None) -> np.ndarray:
        asked.append(len(self) if rows is None else len(np.arange(len(self))[rows]))
        return super().images(rows)


asked: list[int] = []


def on_disk(source: ImageSource, folder: Path) -> FileImages:
    folder.mkdir()
    files = []
    for row, image in enumerate(source.images()):
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0]).save(buffer, format="png")
        files.append(folder / f"{row:05d}.png")
        files[-1].write_bytes(buffer.getvalue())
    known = {"labels": source.labels, "class_names": source.class_names, "shape": source.shape}
    return Watched(items=np.array(files, dtype=object), crop=False, sources=np.array(files, dtype=object), **known)


@pytest.fixture
def too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """No source fits into memory."""
    monkeypatch.setattr(sides, "held", lambda source: source)
    asked.clear()


@pytest.mark.usefixtures("too_large")
def test_images_of_files_come_as_those_in_memory_do(splits: Splits, tmp_path: Path) -> None:
    real = splits.train.take(np.arange(30))
    changes, regions = Augmentation(flip=0.5, resized_crop=(0.5, 1.0)), np.arange(30)
    held = Side(real, regions, 8, 20, 0, CPU)
    read = Side(on_disk(real, tmp_path / "real"), regions, 8, 20, 0, CPU)
    for step in [0, 1, 2, 3, 10, 11, 4, 19]:  # also where a training that was killed goes on
        for team in (Team(), Team(rank=1, size=2)):
            ours, theirs = read.batch(step, team, changes), held.batch(step, team, changes)
            for one, other in zip(ours, theirs, strict=True):
                assert torch.equal(one, other)
    assert max(asked) == 8
    assert read.waited > 0 == held.waited


@pytest.mark.usefixtures("too_large")
def test_a_training_that_reads_ends_in_the_weights_of_one_that_holds(splits: Splits, tmp_path: Path) -> None:
    real, synthetic = splits.train.take(np.arange(40)), splits.generator.take(np.arange(60))
    settings = Classifier(updates=12, batch_size=16, evaluations=2, lambda_1=0.1, lambda_2=0.1)
    data = TrainingData(
        real=real,
        synthetic=synthetic,
        real_regions=np.arange(40) % 3,
        synthetic_regions=np.arange(60) % 3,
        num_regions=3,
    )
    files = dataclasses.replace(
        data, real=on_disk(real, tmp_path / "real"), synthetic=on_disk(synthetic, tmp_path / "synthetic")
    )
    held, read = (fit(each, splits.validation, settings, seed=0, diagnosed=True) for each in (data, files))
    for name, tensor in held.model.state_dict().items():
        assert torch.equal(tensor, read.model.state_dict()[name]), name
    assert all(0 <= row["waiting"] <= 1 for row in read.history)
    assert "waiting" not in held.history[0]
    assert max(asked) <= 60  # the diagnosis; a batch is of 8


@pytest.mark.usefixtures("too_large")
def test_an_image_that_breaks_while_it_is_trained_on_is_named(splits: Splits, tmp_path: Path) -> None:
    files = on_disk(splits.train.take(np.arange(12)), tmp_path / "real")
    (tmp_path / "real" / "00007.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    side = Side(files, np.zeros(12, dtype=np.int64), 4, 6, 0, CPU)
    with pytest.raises(BrokenImages, match=r"00007\.png"):
        _ = [side.batch(step, Team(), Augmentation()) for step in range(3)]


def test_a_small_source_is_held_and_read_once(splits: Splits, tmp_path: Path) -> None:
    before = asked.count(9)
    side = Side(on_disk(splits.train.take(np.arange(9)), tmp_path / "real"), np.zeros(9, dtype=np.int64), 4, 9, 0, CPU)
    for step in range(9):
        side.batch(step, Team(), Augmentation())
    assert asked.count(9) == before + 1
    assert isinstance(side.source, ImageSet)


def test_a_setting_of_images_that_memory_does_not_hold_trains_on_packs(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same regions, the same batches, the same weights; what is packed once serves every ratio."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    quick = {"classifier.updates": 10, "classifier.batch_size": 16, "classifier.evaluations": 1}
    experiment = load_experiment(DIGITS, quick)
    real, synthetic = splits.train.take(np.arange(60)), splits.generator.take(np.arange(400))
    held = ExperimentData.of(experiment, real, synthetic, splits.validation)
    read = ExperimentData.of(
        experiment, on_disk(real, tmp_path / "real"), on_disk(synthetic, tmp_path / "synthetic"), splits.validation
    )
    for ratio in (1.0, 2.0):
        setting = default_setting(experiment, 10, ratio)
        expected = fit(*held.at(setting), seed=0)
        with monkeypatch.context() as little:
            little.setattr(images, "SHARE", 0.0)
            data, validation, settings = read.at(setting)
            assert isinstance(data.real, PackedImages)
            assert isinstance(data.synthetic, PackedImages)
            found = fit(data, validation, settings, seed=0)
        assert np.array_equal(data.synthetic_regions, expected.data.synthetic_regions)
        for name, tensor in expected.model.state_dict().items():
            assert torch.equal(tensor, found.model.state_dict()[name]), name
    assert len(list((tmp_path / "cache" / "ray_synth" / "packs").glob("*.arrow"))) == 2


def test_a_small_ratio_packs_little_and_a_larger_one_what_is_missing(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each packs what it trains on: of classes in order the first of each; of real images nothing that is left out."""
    monkeypatch.setattr(images, "SHARE", 0.0)
    monkeypatch.setattr(packs, "PART", 10)
    order = np.argsort(splits.generator.labels, kind="stable")
    real, synthetic = splits.train.take(np.arange(80)), splits.generator.take(order)
    numbers = list[list[int]]()
    for use_real in (False, True):
        cache = tmp_path / f"cache-{use_real}"
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        experiment = load_experiment(DIGITS, {"data.use_real": use_real})
        held = ExperimentData.of(experiment, real, synthetic, splits.validation)
        files = [on_disk(side, cache.with_suffix(f".{len(side)}")) for side in (real, synthetic)]
        read = ExperimentData.of(experiment, *files, splits.validation)
        numbers.append([])
        for ratio in (1.0, 5.0, 1.0):
            setting, before = default_setting(experiment, 10, ratio), set(cache.rglob("*.arrow"))
            ours, theirs = read.at(setting)[0], held.at(setting)[0]
            assert isinstance(ours.synthetic, PackedImages)
            for one, other in ((ours.real, theirs.real), (ours.synthetic, theirs.synthetic)):
                assert np.array_equal(one.images(), other.images())
            assert np.array_equal(ours.synthetic_regions, theirs.synthetic_regions)
            numbers[-1].append(len(set(cache.rglob("*.arrow")) - before))
            assert before <= set(cache.rglob("*.arrow"))
    (few, more, none), (_, _, _) = numbers
    assert 0 < few < more
    assert few + more < len(synthetic) / 10
    assert none == 0
    assert numbers[1] == [few + 8, more, 0]  # of 80 real images
