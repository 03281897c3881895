"""Which of a class's synthetic images come first: those that together vary as its real ones do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ray_synth.config import load_experiment
from ray_synth.data.images import ImageSet
from ray_synth.errors import InputError
from ray_synth.pipeline import Run
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.sampling.chunks import encoded, work_left, write_chunk
from ray_synth.sampling.selection import covariance_order
from ray_synth.stages import Generate

from ..conftest import DIGITS

SPREAD = np.linspace(2.0, 0.2, 10)


def drawn(seed: int, number: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, 10)) * SPREAD * scale


@pytest.mark.parametrize("copies", [150, 1300])  # more than are looked at for each place
def test_what_varies_as_the_real_images_comes_first(copies: int) -> None:
    real, labels = drawn(0, 200), np.repeat([0, 1], 100)
    narrow, wide, alike = drawn(1, copies, 0.2), drawn(2, 50, 3.0), drawn(3, 200)
    synthetic = np.concatenate([narrow, wide, alike, 7 + drawn(4, 30)])
    of_class = np.repeat([1, 2], [len(synthetic) - 30, 30])
    order = covariance_order(real, labels, synthetic, of_class)
    assert sorted(order) == list(range(len(synthetic)))
    assert (order == covariance_order(real, labels, synthetic, of_class)).all()
    assert (order[-30:] == np.flatnonzero(of_class == 2)).all()  # without real images: as they were
    # For every number taken they are nearer to the real covariance than as many of the pool at random.
    wanted = np.cov(real[100:].T)
    pool = np.random.default_rng(5).permutation(np.flatnonzero(of_class == 1))
    for number in (20, 50, 100):
        far = [np.linalg.norm(np.cov(synthetic[rows[:number]].T) - wanted) for rows in (order, pool)]
        assert far[0] < 0.6 * far[1], number


def test_a_shift_of_the_mean_is_no_reason() -> None:
    real, zero = drawn(0, 100), np.zeros(100, dtype=np.int64)
    synthetic = np.concatenate([drawn(1, 100), drawn(2, 100, 0.1)])
    labels = np.zeros(200, dtype=np.int64)
    here, there = (covariance_order(real, zero, synthetic + shift, labels) for shift in (0.0, 3.0))
    assert (here == there).all()


def test_the_stage_uses_it_and_says_so(tmp_path: Path, digits: ImageSet, capsys: pytest.CaptureFixture[str]) -> None:
    def stage(selection: str, pool: int = 24) -> Generate:
        changes = {"generate.images_per_class": pool, "data.shots": 8, "data.selection": selection}
        return Run(load_experiment(str(DIGITS), changes), RunFolder(tmp_path), Reporter()).of(Generate)

    chosen, plain = stage("covariance"), stage("random")
    plan = plain.images
    for chunk in work_left([], plan).missing:
        pixels = digits.images()[digits.labels == chunk.label]
        # The first half of each class are noise.
        noise = np.random.default_rng(chunk.label).choice(np.array([0, 255], dtype=np.uint8), (24, 8, 8, 1))
        images = [(noise if i < 12 else pixels)[i] for i in range(chunk.start, chunk.stop)]
        named = dict.fromkeys(("prompt", "negative_prompt", "parent_key", "rejected"), "")
        named |= dict.fromkeys(("model_id", "model_revision", "model_license"), "")
        columns = {
            "key": [plan.key(chunk.label, i) for i in range(chunk.start, chunk.stop)],
            "image": [encoded(image, "png", 95) for image in images],
            "label": chunk.label, "class_name": str(chunk.label), "source": "synthetic", "seed": 0, "cluster": -1,
        }  # fmt: skip
        write_chunk(plain.folder, chunk, columns | named)
    ours, theirs = chosen.all, plain.all
    assert sorted(ours.sources) == sorted(theirs.sources)  # type: ignore[type-var, arg-type]
    assert (ours.labels == theirs.labels).all()
    first = [name for label in range(10) for name in ours.sources[ours.labels == label][:8]]  # type: ignore[index]
    wrong = sum(int(name.rsplit("-", 1)[1]) < 12 for name in first)
    assert wrong < 10 < 80 == len(first)
    assert "choosing among 240 synthetic images" in capsys.readouterr().err
    assert (chosen.pilot_images.sources == ours.sources).all()
    assert chosen.trained_on != plain.trained_on
    assert chosen.digest == plain.digest  # the images are the same
    assert stage("covariance", 25).trained_on != chosen.trained_on  # of a larger pool others come first
    assert stage("random", 25).trained_on == plain.trained_on


def test_without_a_pool_it_is_refused() -> None:
    with pytest.raises(InputError, match=r"needs a pool.*images_per_class"):
        load_experiment(str(DIGITS), {"data.selection": "covariance", "generate.images_per_class": None})
