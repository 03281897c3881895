"""The estimate of a run: how many images it looks at, through what, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_synth import estimate as room
from ray_synth.allocation import ALLOCATIONS, Allocation
from ray_synth.config import load_experiment
from ray_synth.config.experiment import Estimate as Settings
from ray_synth.errors import InputError
from ray_synth.pipeline import Run
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.stages import Estimate, Generate

from ..conftest import DIGITS
from ..generator.several import write_generator


def run_of(out: Path, **changes: object) -> Run:
    return Run(load_experiment(str(DIGITS), changes), RunFolder(out), Reporter())


class Counted(Generate):
    """Its numbers alone, of real images that need not be there."""

    def __init__(self, real: list[int], allocations: tuple[Allocation, ...] = ("fill",), **estimate: Any):
        settings = Settings(**estimate)
        counts = np.array(real)
        self.inputs: Any = SimpleNamespace(
            real_counts=counts, tried_counts=counts, given=np.ones(len(real), dtype=bool)
        )
        self.experiment: Any = SimpleNamespace(
            estimate=settings,
            generator=SimpleNamespace(names=()),
            sweep=SimpleNamespace(choices_of=lambda _: allocations),
            generate=SimpleNamespace(images_per_class=None),
        )
        self._grown = np.zeros(len(real), dtype=np.int64)  # type: ignore[misc]
        self.most_per_class = np.full(len(real), 10**6)  # type: ignore[misc]


def test_a_large_set_is_looked_at_in_part() -> None:
    imagenet = Counted([1300] * 900 + [732] * 100)
    assert imagenet.pilot_real.sum() == pytest.approx(10_000, rel=0.05)
    assert set(imagenet.pilot_real) == {10, 6}
    assert 9_000 < imagenet.pilot.sum() <= 10_000
    rare = Counted([50_000, 3, 1])
    assert rare.pilot_real.tolist() == [9999, 2, 1]  # a class keeps two, where it has them
    few = Counted([16] * 100)
    assert few.pilot_real.tolist() == [16] * 100
    assert few.pilot.tolist() == [100] * 100  # of the 8 for each real one that are asked for
    small = Counted([10] * 10)
    assert (small.pilot_real.sum(), small.pilot.sum()) == (100, 800)  # all of it, as before
    assert Counted([10] * 10, max_images=400).pilot.sum() == 400


@given(
    st.lists(st.integers(2, 3000), min_size=2, max_size=40),
    st.sets(st.sampled_from(ALLOCATIONS), min_size=1).map(tuple),
    st.integers(100, 2000),
)
def test_no_more_is_looked_at_than_is_said(
    real: list[int], allocations: tuple[Allocation, ...], max_images: int
) -> None:
    images = Counted(real, allocations, max_images=max_images)
    spare = len(real)  # a class's share is rounded, and it keeps two real images and one synthetic one
    assert images.pilot_real.sum() <= max_images + 2 * spare
    assert images.pilot.sum() <= max_images + spare
    for each in ([name] for name in allocations):  # as much of every allocation as goes
        alone = Counted(real, tuple(each), max_images=max_images)
        assert alone.pilot.sum() >= min(max_images, 8 * alone.pilot_real.sum()) - 2 * spare


def test_of_each_class_are_made_as_many_as_are_asked_for() -> None:
    uneven = Counted([60, 30, 3])
    assert uneven.images_per_class.tolist() == uneven.pilot.tolist() == [219, 249, 276]  # all at 279
    assert uneven.number_for(1) == uneven.total == 744
    assert uneven.number_for(16) == 16 * 93
    rare = Counted([60, 30, 3], ("proportional",))
    assert rare.total == sum(rare.images_per_class) == 8 * 93
    assert rare.images_per_class.tolist() == [480, 240, 24]
    rare.most_per_class = np.array([600, 300, 12])  # type: ignore[misc]
    assert rare.images_per_class.tolist() == [480, 240, 12]
    assert rare.max_ratio(16.0) == 4.0  # the rare class has no more


def test_it_looks_at_so_many_and_is_told_the_size_of_the_whole_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"data.shots": 20, "estimate.max_images": 100}
    run, asked = run_of(tmp_path, **changes), {}
    estimate = run.of(Estimate)
    assert estimate.plan == "predicting the ratio from 100 of 200 real and 100 synthetic images"
    measured = estimate.measured_with()
    assert (measured["real images of the estimate"], measured["synthetic images of the estimate"]) == (100, 100)
    train = run.inputs.splits.train
    generate = run.of(Generate)
    reading = {"read_image": 100}  # of many more
    assert [dict(group.tasks[0].takes) for group in estimate.tasks()] == [reading, {"estimate": 1}]
    assert generate.total > 200
    monkeypatch.setattr(generate, "_listed", lambda: train)
    monkeypatch.setattr(Generate, "all", property(lambda _: pytest.fail("all images are read")))

    def answered(real: Any, generators: Any, **words: Any) -> Any:
        asked.update(real=real, synthetic=generators["synthetic"], **words)
        return (SimpleNamespace(estimate=SimpleNamespace(to_dict=dict)),)

    monkeypatch.setattr(room, "rank_sources", answered)
    estimate.run(lambda _: None)
    assert asked["real"].counts.tolist() == asked["synthetic"].counts.tolist() == [10] * 10
    assert asked["num_real"] == 200
    assert asked["features"] == "auto"
    more = run_of(tmp_path, **{**changes, "estimate.max_images": 150}).of(Estimate)
    assert more.digest != estimate.digest


def test_a_plan_says_that_it_may_look_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def looks(**changes: object) -> bool:
        unknown, *more = run_of(tmp_path / "run", **{"data.shots": 4, **changes}).of(Estimate).caveats
        assert "is not known yet" in unknown
        return any("seconds of a core more" in said for said in more)

    assert looks()
    assert not looks(**{"estimate.features": "timm:tf_efficientnet_lite0"})
    folders = {name: write_generator(tmp_path / name, seed=seed, each=12) for seed, name in enumerate("ab")}
    assert not looks(generator={"kind": "folder", "path": folders}, **{"generate.images_per_class": 12})
    monkeypatch.setattr("ray_synth.stages.estimate.AGAIN_BELOW", 40)
    assert not looks()


def test_features_that_are_not_there_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file at /nowhere\.safetensors"):
        run_of(tmp_path, **{"estimate.features": "open_clip:ViT-B-32:/nowhere.safetensors"})
    with pytest.raises(InputError, match=r"estimate\.features"):
        run_of(tmp_path, **{"estimate.features": "pixels"})
    assert not list(tmp_path.iterdir())
