"""The sweep's proposals: first settings first, a function of the results alone, and any kill counted once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_synth.classifier.setting import Setting, default_setting
from ray_synth.config import Experiment, load_experiment
from ray_synth.errors import InputError, WorkError
from ray_synth.runs import RunFolder
from ray_synth.sweep.ledger import LEDGER, TRIALS, Ledger, Start, Trial, best_trial, cheapest_trial
from ray_synth.sweep.prior import Prior
from ray_synth.sweep.search import Search
from ray_synth.sweep.space import Space
from tests.conftest import DIGITS
from tests.estimates import curve_of, estimate_of

ESTIMATE = estimate_of(
    curve_of([0, 1, 4, 16], [0.2, 0.15, 0.1, 0.12], [0.18] * 4, [0.22] * 4), ratio=5.0, interval=(2.0, 12.0)
)


def experiment(**overrides: Any) -> Experiment:
    settings = {"sweep.num_trials": 6, **{f"sweep.{name}".replace("__", "."): v for name, v in overrides.items()}}
    return load_experiment(DIGITS, settings)


def search(folder: RunFolder, e: Experiment, estimate: Any = ESTIMATE, window: int = 4) -> Search:
    prior = Prior.of(estimate, e.sweep.prior)
    return Search(Ledger(folder).resume(), e, Space(e, num_classes=10, max_ratio=16.0), prior=prior, window=window)


def ended(start: Start, accuracy: float, status: Any = "complete", **more: Any) -> Trial:
    history = tuple([accuracy] * 5)
    return Trial(trial_id=start.trial_id, status=status, seconds=1.0, accuracy=accuracy, setting=start.setting,
                 history=history[: 2 if status == "pruned" else 5], evaluations=5, **more)  # fmt: skip


def smooth(setting: Setting) -> float:
    """A deterministic objective."""
    u = math.log2(1 + setting.synthetic_ratio)
    return (
        0.9
        - 0.02 * (u - 2.5) ** 2
        - 0.01 * abs(math.log10(setting.classifier["lambda_2"]))
        - 0.0001 * setting.num_clusters
    )


def run(engine: Search, objective: Callable[[Setting], float] = smooth, *, slots: int = 2, order: int = 0,
        stop_after: int | None = None) -> None:  # fmt: skip
    """A pool of workers that finish in a random order; stops as a kill would, with trials in hand."""
    rng, running, done = np.random.default_rng(order), [], 0
    while engine.left or running:
        while len(running) < slots and engine.left:
            start = engine.propose()
            if start is None:
                assert running, "nobody works and nothing is proposed"
                break
            running.append(start)
        start = running.pop(rng.integers(len(running)))
        value = objective(start.setting)
        pruned = any(value < cut for cut in start.cuts.values())
        engine.ledger.end(ended(start, value, "pruned" if pruned else "complete"))
        done += 1
        if done == stop_after:
            return


def rows(folder: RunFolder) -> list[tuple[str, str, str, str]]:
    return [(t.trial_id, t.setting.digest, t.status, repr(t.accuracy)) for t in Ledger(folder).trials]


def test_the_prediction_ratio_zero_and_the_interval_come_first(tmp_path: Path) -> None:
    engine = search(RunFolder(tmp_path), experiment())
    starts = [engine.propose() for _ in range(4)]
    assert [s.setting.synthetic_ratio for s in starts if s] == [5.0, 0.0, 2.0, 12.0]
    assert all(s is not None and s.origin == "first" and not s.cuts for s in starts)
    assert [s.setting for s in starts if s][1] == default_setting(experiment(), 10, 0.0)
    assert [s.trial_id for s in starts if s] == [f"t{i:05d}" for i in range(4)]


@pytest.mark.parametrize(("prior", "ratios"), [("none", [0.0]), ("points", [5.0, 0.0, 2.0, 12.0])])
def test_priors_by_name(tmp_path: Path, prior: str, ratios: list[float]) -> None:
    engine = search(RunFolder(tmp_path), experiment(prior=prior))
    run(engine)
    starts = list(engine.ledger.starts.values())
    assert [s.setting.synthetic_ratio for s in starts if s.origin == "first"] == ratios
    assert {s.origin for s in starts} == {"first", "tpe"}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_gives_the_same_sweep_whoever_finishes_first(tmp_path: Path, sampler: str) -> None:
    found = []
    for order in range(3):
        folder = RunFolder(tmp_path / str(order))
        run(search(folder, experiment(num_trials=24, sampler=sampler)), order=order)
        found.append(rows(folder))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 24


@pytest.mark.parametrize("prior", ["none", "distribution"])
def test_a_sweep_killed_anywhere_tries_what_an_undisturbed_one_tries(tmp_path: Path, prior: str) -> None:
    e = experiment(num_trials=20, prior=prior)
    quiet = RunFolder(tmp_path / "quiet")
    run(search(quiet, e))
    for seed in range(4):
        folder, rng = RunFolder(tmp_path / str(seed)), np.random.default_rng(seed)
        while len(Ledger(folder).ended) < 20:
            run(search(folder, e), order=seed, stop_after=int(rng.integers(1, 7)))
            if rng.random() < 0.5:  # in the middle of a line
                folder.append(LEDGER, '{"event": "ended", "trial_')
        assert rows(folder) == rows(quiet)


def test_a_kill_loses_no_trial_and_counts_none_twice(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    engine = search(folder, experiment())
    starts = [engine.propose() for _ in range(4)]
    assert starts[1] is not None
    engine.ledger.end(ended(starts[1], 0.9))
    again = search(folder, experiment())
    assert again.left == 5
    assert [again.propose() for _ in range(3)] == [starts[0], starts[2], starts[3]]
    run(search(folder, experiment()))
    ledger = Ledger(folder)
    assert [t.trial_id for t in ledger.trials] == [f"t{i:05d}" for i in range(6)]
    assert search(folder, experiment()).left == 0
    ledger.write_table()
    lines = folder.read(TRIALS).decode().splitlines()
    assert lines[0].startswith("trial_id,status,seconds,accuracy,synthetic_ratio,lambda_1,lambda_2,num_clusters,")
    assert len(lines) == 7


def test_a_line_of_another_version_is_said_in_one_sentence(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    run(search(folder, experiment()))
    lines = folder.read(LEDGER).decode().splitlines()
    lines[3] = '{"event": "started", "trial_id": "t00003", "params": {}}'
    folder.write(LEDGER, "\n".join(lines).encode())
    with pytest.raises(WorkError, match=r"line 4 is no line of a ledger.*move .*/sweep away"):
        Ledger(folder)
    assert not Ledger(folder, read=False).starts


def test_what_failed_stays_failed_unless_the_reason_may_pass(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    engine = search(folder, experiment())
    starts = [engine.propose() for _ in range(4)]
    for start, more in zip(starts, ({}, {"error": "the loss is nan"}, {"error": "died", "again": True}), strict=False):
        assert start is not None
        failed = ended(start, math.nan, "failed", **more)
        engine.ledger.end(failed if more else ended(start, 0.8))
    again = search(folder, experiment())
    assert [s.trial_id for s in (again.propose(), again.propose()) if s] == ["t00002", "t00003"]
    trials = Ledger(folder).trials
    assert [t.status for t in trials] == ["complete", "failed", "failed"]
    assert math.isnan(trials[1].accuracy)
    assert [t.state.name for t in again.study.trials] == []  # nothing is told before it is needed


def test_a_trial_stopped_early_is_never_taken_for_a_finished_one(tmp_path: Path) -> None:
    engine = search(RunFolder(tmp_path), experiment(num_trials=12), window=1)
    run(engine, lambda setting: -setting.synthetic_ratio, slots=1)  # most fall below the cuts
    statuses = [t.status for t in engine.ledger.trials]
    assert "pruned" in statuses[4:]
    assert set(statuses[:4]) == {"complete"}  # first settings are never stopped
    states = {"complete": "COMPLETE", "pruned": "PRUNED"}
    known = [t.state.name for t in engine.study.trials[: engine.known]]
    assert known == [states[status] for status in statuses[: engine.known]]
    best = best_trial(engine.ledger.trials)
    assert best.status == "complete"
    assert best.setting.synthetic_ratio == 0.0


def test_cuts_are_those_of_successive_halving(tmp_path: Path) -> None:
    engine = search(RunFolder(tmp_path), experiment(num_trials=30), window=1)
    for k in range(9):
        start = engine.propose()
        assert start is not None
        engine.ledger.end(ended(start, k / 10))
    start = engine.propose()
    assert start is not None
    # Rungs at pass 2 (of 5); 6 is beyond. Of nine values the best third stays.
    assert start.cuts == {2: pytest.approx(np.percentile(np.arange(9) / 10, 100 * 2 / 3))}
    assert search(RunFolder(tmp_path / "no"), experiment(pruner="none"))._cuts(engine.order) == {}


def test_a_grid_is_every_combination_once(tmp_path: Path) -> None:
    space = {"synthetic_ratio": {"choices": [0, 1, 2.5]}, "lambda_2": {"choices": [1, 20]},
             "lambda_1": {"tied_to": "lambda_2", "factor": 0.1}, "clusters_per_class": None}  # fmt: skip
    e = experiment(space=space, sampler="grid", prior="none", num_trials=50)
    engine = search(RunFolder(tmp_path), e)
    assert engine.total == 6
    run(engine)
    assert engine.ledger.trials[0].setting.synthetic_ratio == 0.0
    settings = [t.setting for t in engine.ledger.trials]
    points = {(s.synthetic_ratio, s.classifier["lambda_1"], s.classifier["lambda_2"]) for s in settings}
    assert points == {(r, l2 / 10, l2) for r in (0.0, 1.0, 2.5) for l2 in (1.0, 20.0)}
    assert engine.left == 0
    tpe = search(RunFolder(tmp_path / "tpe"), experiment(space=space, prior="none", num_trials=50))
    run(tpe)  # a finite space is left when it is empty, and no setting is tried twice
    assert len({t.setting.digest for t in tpe.ledger.trials}) == len(tpe.ledger.trials) == 6


def test_the_allocation_is_a_choice_like_others(tmp_path: Path) -> None:
    space = {"synthetic_ratio": {"choices": [0, 1]}, "allocation": {"choices": ["proportional", "fill"]},
             "lambda_1": None, "lambda_2": None, "clusters_per_class": None}  # fmt: skip
    e = experiment(space=space, sampler="grid", prior="none", num_trials=50)
    engine = search(RunFolder(tmp_path), e)
    run(engine)
    settings = [trial.setting for trial in engine.ledger.trials]
    assert {(s.synthetic_ratio, s.allocation) for s in settings} == {
        (ratio, name) for ratio in (0.0, 1.0) for name in ("proportional", "fill")
    }
    assert all(Setting.from_dict(setting.to_dict()) == setting for setting in settings)
    assert {tuple(s.synthetic_counts([9, 3], e, [True, True])) for s in settings if s.synthetic_ratio} == {
        (9, 3),
        (3, 9),
    }
    assert "allocation" not in default_setting(experiment(), 10, 1.0).to_dict()
    for choices in ({"choices": ["rarest"]}, {"low": 0, "high": 1}):
        with pytest.raises(InputError, match=r"sweep\.space\.allocation: choices among fill, equal, proportional"):
            experiment(space={"allocation": choices})


def test_extending_a_finished_sweep(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    run(search(folder, experiment()))
    before = rows(folder)
    Ledger(folder).extend(9)
    engine = search(folder, experiment())
    assert (engine.total, engine.left) == (9, 3)
    run(engine)
    assert rows(folder)[:6] == before
    assert len(rows(folder)) == 9


def test_any_key_of_the_classifier_can_be_searched(tmp_path: Path) -> None:
    space = {"learning_rate": {"low": 1e-4, "high": 1e-2, "scale": "log"}, "batch_size": {"choices": [32, 64]},
             "augment": {"flip": {"low": 0.0, "high": 1.0}}, "updates": {"low": 100, "high": 300},
             "num_clusters": {"low": 5, "high": 50}}  # fmt: skip
    e = experiment(space=space, num_trials=12)
    engine = search(RunFolder(tmp_path), e)
    run(engine)
    for trial in engine.ledger.trials[4:]:
        classifier = trial.setting.applied_to(e.classifier)
        assert 1e-4 <= classifier.learning_rate <= 1e-2
        assert classifier.batch_size in (32, 64)
        assert 0 <= classifier.augment.flip <= 1
        assert 100 <= classifier.updates <= 300
        assert 5 <= trial.setting.num_clusters <= 50
    first = engine.ledger.trials[0].setting.applied_to(e.classifier)
    assert first == e.classifier  # what is not searched yet is as the file says
    assert Setting.from_dict(engine.ledger.trials[5].setting.to_dict()) == engine.ledger.trials[5].setting


def at(e: Experiment, **params: Any) -> Setting:
    """A setting of the space, by Optuna's parameters."""
    space = Space(e, num_classes=10, max_ratio=16.0)
    return space.setting({**space.params(space.default), **params})


def test_a_choice_is_taken_as_it_was_written() -> None:
    choices = {"image_size": [16, 24], "learning_rate": [0.00123456], "augment.resized_crop": [None, [0.5, 1.0]]}
    space = {"synthetic_ratio": {"choices": [0, 1 / 3]}, **{name: {"choices": c} for name, c in choices.items()}}
    e = load_experiment(DIGITS, {"sweep.space": space, "classifier.augment.resized_crop": [0.5, 1.0]})
    setting = at(e, image_size=1, learning_rate=0, synthetic_ratio=1)
    assert setting.applied_to(e.classifier).image_size == 24
    assert (setting.classifier["learning_rate"], setting.synthetic_ratio) == (0.00123456, 1 / 3)
    first = Space(e, num_classes=10, max_ratio=16.0)
    assert first.params(first.default)["augment.resized_crop"] == 1


def test_rounding_does_not_leave_a_range() -> None:
    e = experiment(space={"ema_decay": {"low": 0.9, "high": 0.99999}})
    assert at(e, ema_decay=0.99998).applied_to(e.classifier).ema_decay == 0.99998
    top = Space(experiment(), num_classes=10, max_ratio=13335 / 20000)  # no image more than there are
    assert top.setting(top.params(default_setting(experiment(), 10, 1.0))).synthetic_ratio <= 13335 / 20000


def test_a_space_of_very_many_choices_is_not_gone_through(tmp_path: Path) -> None:
    many = {"choices": [0.5 + i for i in range(100)]}
    space = {"synthetic_ratio": {"choices": [0, 1]}, "lambda_1": many, "lambda_2": many, "learning_rate": many,
             "weight_decay": many, "targets.mixup": many, "clusters_per_class": None}  # fmt: skip
    space["learning_rate"] = {"choices": [0.001 * (1 + i) for i in range(100)]}
    engine = search(RunFolder(tmp_path), experiment(space=space, num_trials=12))
    run(engine)
    assert len(engine.ledger.trials) == 12
    with pytest.raises(InputError, match=r"sampler: grid takes at most 10,000 settings.*make 20,000,000,000"):
        search(RunFolder(tmp_path / "grid"), experiment(space=space, sampler="grid"))


def test_ratio_zero_says_nothing_of_a_range_above_it(tmp_path: Path) -> None:
    engine = search(RunFolder(tmp_path), experiment(space={"synthetic_ratio": {"low": 4.0, "high": 16.0}}), window=1)
    run(engine, slots=1)
    assert engine.ledger.trials[1].setting.synthetic_ratio == 0.0
    assert min(engine._seen()[0]) >= 4.0


def test_a_setting_outside_the_ranges_is_tried_as_it_is(tmp_path: Path) -> None:
    e = load_experiment(DIGITS, {"classifier.lambda_1": 0.0, "classifier.lambda_2": 7.0})
    engine = search(RunFolder(tmp_path), e)
    start = engine.propose()
    assert start is not None
    assert (start.setting.classifier["lambda_1"], start.setting.classifier["lambda_2"]) == (0.0, 7.0)
    engine.ledger.end(ended(start, 0.5))
    run(engine)  # and it does not break the study


def test_ratios_beyond_the_images_are_refused(tmp_path: Path) -> None:
    e = experiment(space={"synthetic_ratio": {"choices": [0, 1, 32]}})
    with pytest.raises(InputError, match=r"asks for 32, and the synthetic images reach 16.*images_per_class"):
        search(RunFolder(tmp_path), e)


def test_the_best_is_complete_and_of_equals_the_cheapest(tmp_path: Path) -> None:
    def trial(number: int, accuracy: float, ratio: float, status: Any = "complete", seconds: float = 1.0) -> Trial:
        setting = default_setting(experiment(), 10, ratio)
        return Trial(trial_id=f"t{number:05d}", status=status, seconds=seconds, accuracy=accuracy, setting=setting,
                     num_synthetic=int(100 * ratio))  # fmt: skip

    trials = [trial(0, 0.9, 4.0), trial(1, 0.9, 2.0), trial(2, 0.99, 1.0, "pruned"), trial(3, 0.896, 1.0)]
    assert best_trial(trials).trial_id == "t00001"
    assert cheapest_trial(trials, 0.005).trial_id == "t00003"
    assert cheapest_trial(trials, 0.001).trial_id == "t00001"
    with pytest.raises(WorkError, match="no trial of the sweep is complete"):
        best_trial(trials[2:3])


@pytest.mark.parametrize(("event", "left"), [("ended", 1), ("started", 4)])
def test_a_line_that_was_changed_counts_for_nothing(tmp_path: Path, event: str, left: int) -> None:
    """Without the end of a trial it is run again; without its start so are those that were proposed after it."""
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "changed")
    run(search(whole, experiment()))
    lines = whole.read(LEDGER).decode().splitlines()
    place = next(k for k, line in enumerate(lines) if event in line and "t00002" in line)
    lines[place] = lines[place].replace("0.", "0.1", 1)
    folder.write(LEDGER, "".join(f"{line}\n" for line in lines).encode())
    ledger = Ledger(folder)
    assert ledger.spoiled == [place + 1]
    assert len(ledger.ended) == 6 - left
    engine = search(folder, experiment())
    assert engine.left == left
    run(engine)
    assert rows(folder) == rows(whole)
    assert not Ledger(folder).spoiled
    (kept,) = folder.list("stale")
    assert folder.read(f"stale/{kept}/{LEDGER}").decode().splitlines() == lines


def test_a_line_without_a_hash_is_read_as_an_older_version_wrote_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    run(search(folder, experiment()))
    before = Ledger(folder).trials
    plain = [json.loads(line) for line in folder.read(LEDGER).decode().splitlines()]
    assert all(row.pop("sha256") for row in plain)
    folder.write(LEDGER, "".join(f"{json.dumps(row)}\n" for row in plain).encode())
    assert Ledger(folder).trials == before
    plain[-1]["accuracy"] = "good"
    folder.write(LEDGER, "".join(f"{json.dumps(row)}\n" for row in plain).encode())
    with pytest.raises(WorkError, match="is no line of a ledger"):
        Ledger(folder)
