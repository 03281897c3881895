"""A sweep among several generators: the ranking says where it begins, the trials where it ends, a kill nothing."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_synth.bound.result import Ranked
from ray_synth.classifier.setting import Setting
from ray_synth.config import Experiment, load_experiment
from ray_synth.runs import RunFolder
from ray_synth.sweep.ledger import LEDGER, TRIALS, Ledger, best_trial
from ray_synth.sweep.prior import Prior, drawn_generator
from ray_synth.sweep.search import Search, importances
from ray_synth.sweep.space import Space
from tests.conftest import DIGITS
from tests.estimates import curve_of, estimate_of

from .test_search import rows, run

NAMES = ("first", "second", "third")
RATIOS = [0, 1, 4, 16]
OWN = {"first": 8.0, "second": 5.0, "third": 2.0}  # the ratio that is predicted for each


def experiment(**changes: Any) -> Experiment:
    path = {name: f"images/{name}" for name in NAMES}
    settings = {"generator": {"kind": "folder", "path": path}, "sweep.num_trials": 24}
    return load_experiment(DIGITS, {**settings, **changes})


def ranking(**shares: float) -> list[Ranked]:
    """As the estimate gives it: the most probable first."""
    curve = curve_of(RATIOS, [0.2, 0.15, 0.1, 0.12], [0.18] * 4, [0.22] * 4)
    return [
        Ranked(name=name, probability=shares[name], estimate=estimate_of(curve, ratio=own, interval=(own / 2, 16.0)))
        for name, own in sorted(OWN.items(), key=lambda pair: -shares[pair[0]])
    ]


def search(folder: RunFolder, e: Experiment, shares: dict[str, float], window: int = 4) -> Search:
    ranked = ranking(**shares)
    prior = Prior.of(ranked[0].estimate, e.sweep.prior, ranked)
    return Search(Ledger(folder).resume(), e, Space(e, num_classes=10, max_ratio=16.0), prior=prior, window=window)


SHARES = {"first": 0.05, "second": 0.7, "third": 0.25}


def value(setting: Setting, best: str) -> float:
    """More of the best generator's images help up to a ratio of 4; others' hurt."""
    u = math.log2(1 + setting.synthetic_ratio)
    gain = 0.05 * u - 0.01 * u * u if setting.generator == best else -0.02 * u
    return 0.7 + gain - 0.005 * abs(math.log10(setting.classifier["lambda_2"]))


def test_the_ranking_says_where_the_sweep_begins(tmp_path: Path) -> None:
    engine = search(RunFolder(tmp_path), experiment(), SHARES)
    run(engine, lambda setting: value(setting, "second"))
    starts = list(engine.ledger.starts.values())
    assert [(s.setting.synthetic_ratio, s.setting.generator) for s in starts[:4]] == [
        (5.0, "second"), (0.0, ""), (2.5, "second"), (16.0, "second")
    ]  # fmt: skip
    for name in ("first", "third"):  # another one is first tried at what is predicted for it
        own = [s.setting for s in starts if s.setting.generator == name]
        assert own
        assert own[0].synthetic_ratio == OWN[name]
    assert {s.setting.generator for s in starts} == {*NAMES, ""}
    trials = engine.ledger.trials
    assert best_trial(trials).setting.generator == "second"
    engine.ledger.write_table()
    head, *lines = (tmp_path / TRIALS).read_text().splitlines()
    place = head.split(",").index("generator")
    assert {line.split(",")[place].strip('"') for line in lines} == {*NAMES, ""}
    assert "generator" in importances(engine.ledger, engine.space, "accuracy")


def test_others_are_drawn_by_their_probability() -> None:
    """As far as the prediction is trusted; a generator that it gives no chance has one."""
    ranked = ranking(first=0.0, second=0.75, third=0.25)
    prior = Prior.of(ranked[0].estimate, "distribution", ranked)
    assert prior is not None
    drawn = Counter(drawn_generator(prior.generators, seed) for seed in range(2000))
    for name, share in {"first": 0.0, "second": 0.75, "third": 0.25}.items():
        assert drawn[name] / 2000 == pytest.approx(0.8 * share + 0.2 / 3, abs=0.03)


def test_a_wrong_ranking_is_outvoted(tmp_path: Path) -> None:
    found = []
    for seed in range(3):
        engine = search(
            RunFolder(tmp_path / str(seed)), experiment(seed=seed), {"first": 0.9, "second": 0.06, "third": 0.04}
        )
        run(engine, lambda setting: value(setting, "third"))
        found.append(best_trial(engine.ledger.trials).setting.generator)
    assert found == ["third"] * 3


@pytest.mark.parametrize("prior", ["points", "distribution"])
def test_a_sweep_that_is_killed_tries_the_same_generators(tmp_path: Path, prior: str) -> None:
    e = experiment(**{"sweep.prior": prior})
    quiet = RunFolder(tmp_path / "quiet")
    run(search(quiet, e, SHARES), lambda setting: value(setting, "third"))
    folder, rng = RunFolder(tmp_path / "killed"), np.random.default_rng(0)
    while len(Ledger(folder).ended) < 24:
        engine = search(folder, e, SHARES)
        run(engine, lambda setting: value(setting, "third"), order=1, stop_after=int(rng.integers(1, 9)))
        if rng.random() < 0.5:  # in the middle of a line
            folder.append(LEDGER, '{"event": "ended", "trial_')
    assert rows(folder) == rows(quiet)


def test_the_prior_holds_the_ranking_and_one_generators_is_as_it_was() -> None:
    ranked = ranking(**SHARES)
    prior = Prior.of(ranked[0].estimate, "distribution", ranked)
    assert prior is not None
    assert prior.generator == "second"
    assert [each["name"] for each in prior.to_dict()["generators"]] == ["second", "third", "first"]
    points = Prior.of(ranked[0].estimate, "points", ranked)
    assert points is not None
    assert all(each.prior.curve is None for each in points.generators)
    alone = Prior.of(ranked[0].estimate, "distribution")
    assert alone is not None
    assert set(alone.to_dict()) == {"ratio", "interval", "curve", "confidence"}


def test_a_grid_takes_every_generator_and_no_image_once(tmp_path: Path) -> None:
    space = {"synthetic_ratio": {"choices": [0, 1, 4]}, "lambda_1": None, "lambda_2": None, "clusters_per_class": None}
    e = experiment(**{"sweep.space": space, "sweep.sampler": "grid"})
    engine = search(RunFolder(tmp_path), e, SHARES)
    run(engine, lambda setting: value(setting, "third"))
    tried = [(t.setting.synthetic_ratio, t.setting.generator) for t in engine.ledger.trials]
    assert sorted(tried) == sorted([(0.0, ""), *((ratio, name) for ratio in (1.0, 4.0) for name in NAMES)])
    assert tried[0] == (4.0, "second")
