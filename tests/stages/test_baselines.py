"""What is trained of real images alone, for a fair comparison, and what is not trained twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_synth.classifier.final import Training
from ray_synth.classifier.setting import Setting
from ray_synth.config import load_experiment
from ray_synth.pipeline import Run
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.stages.evaluate import Evaluate
from ray_synth.stages.sweep import Sweep
from ray_synth.stages.train import AUGMENTED, COMPARED, TUNED, Train
from ray_synth.sweep.ledger import Ledger
from ray_synth.sweep.search import Search

from ..conftest import DIGITS
from ..data.test_ood import written
from ..planning.test_work import TINY, estimated
from ..sweep.test_search import run as run_search

RATES = [0.001, 0.002, 0.004]
GRID = {
    "sweep.sampler": "grid",
    "sweep.prior": "none",
    "sweep.pruner": "none",
    "sweep.space": {
        "synthetic_ratio": {"choices": [0, 1]},
        "learning_rate": {"choices": RATES},
        "lambda_1": None,
        "lambda_2": None,
        "clusters_per_class": None,
    },
}


def run_in(out: Path, **changes: object) -> Run:
    return Run(load_experiment(DIGITS, {**TINY, **changes}), RunFolder(out), Reporter())


def tried(out: Path, accuracy: dict[tuple[float, float], float]) -> Run:
    """Through its sweep. accuracy: (ratio, learning rate) -> what its trial reaches; of others .5."""
    run = run_in(out, **GRID)
    estimated(run)
    sweep = run.of(Sweep)

    def reached(setting: Setting) -> float:
        return accuracy.get((setting.synthetic_ratio, setting.classifier["learning_rate"]), 0.5)

    engine = Search(Ledger(run.folder, read=False), run.inputs.on_workers, sweep.space, prior=sweep.prior, window=4)
    run_search(engine, reached)
    run.folder.write_json("stages/sweep.json", {"digest": sweep.digest, "complete": True, "outputs": []})
    return run


def test_the_best_trial_without_synthetic_images_is_trained_too(tmp_path: Path) -> None:
    run = tried(tmp_path / "out", {(1, 0.001): 0.9, (0, 0.004): 0.8})
    train = run.of(Train)
    settings = train.settings()
    assert settings["best"].classifier["learning_rate"] == 0.001
    assert settings[TUNED].classifier["learning_rate"] == 0.004
    assert settings[TUNED].synthetic_ratio == settings[AUGMENTED].synthetic_ratio == 0
    assert settings[AUGMENTED].classifier == {**settings[TUNED].classifier, "augment.trivial": 1.0}
    assert settings[AUGMENTED].applied_to(run.experiment.classifier).augment.trivial == 1
    assert train.same == {}
    names = [training.name for training in train.trainings()]
    assert len(names) == len(set(names)) == train.total == 5 * run.experiment.evaluate.repeats
    assert {t.seed for t in train.trainings() if t.name.startswith(TUNED)} == {
        t.seed for t in train.trainings() if t.name.startswith("best-")
    }


def test_where_the_default_is_best_without_synthetic_images_the_best_setting_is_tried_without_them(
    tmp_path: Path,
) -> None:
    run = tried(tmp_path / "out", {(1, 0.001): 0.9, (0, 0.002): 0.8})
    assert run.of(Train).settings()[TUNED].classifier["learning_rate"] == 0.001
    assert run.of(Train).same == {}


def test_the_same_setting_is_not_trained_twice(tmp_path: Path) -> None:
    run = tried(tmp_path / "out", {(1, 0.002): 0.9, (0, 0.002): 0.8})
    train = run.of(Train)
    assert train.same == {TUNED: "real_only"}
    assert train.total == 4 * run.experiment.evaluate.repeats
    assert run.of(Evaluate)._context().same == {TUNED: "real_only"}


def test_before_the_sweep_is_through_they_are_counted_where_they_may_differ(tmp_path: Path) -> None:
    repeats = 3
    assert run_in(tmp_path / "a", **GRID).of(Train).total == 5 * repeats
    assert run_in(tmp_path / "b").of(Train).total == 4 * repeats  # of the default space nothing acts on them
    alone = run_in(tmp_path / "c", **GRID, **{"evaluate.baselines": []}).of(Train)
    assert alone.total == 3 * repeats
    assert tuple(alone.settings()) == COMPARED
    own = run_in(tmp_path / "d", **{"classifier.augment.trivial": 1.0}).of(Train)
    assert TUNED in own.same


def test_further_sets_and_corruptions_are_in_the_plan(tmp_path: Path) -> None:
    other = written(tmp_path / "other", {"3": 2, "7": 1}, side=8)
    changes = {"evaluate.ood.sets.mine": str(other), "evaluate.ood.corruptions": ["contrast"]}
    run = run_in(tmp_path / "out", **changes, **{"evaluate.ood.images": 100})
    plain = run_in(tmp_path / "plain")
    stage = run.of(Evaluate)
    assert "3 of mine" in stage.plan
    assert "100 corrupted ones in 1 ways and 5 strengths" in stage.plan
    trainings = run.of(Train).total
    takes = {task.name: task.takes for group in stage.tasks() for task in group.tasks}
    assert takes["ood"] == {"test_image": 3 * trainings}
    assert takes["corruption"] == {"test_image": 500 * trainings, "corrupted_image": 500 * 3}
    before = {task.name: task.takes for group in plain.of(Evaluate).tasks() for task in group.tasks}
    assert before["ood"] == before["corruption"] == {}
    assert stage.digest != plain.of(Evaluate).digest
    assert any(note.startswith("mine: ") for note in stage.notes)


def test_each_training_says_once_how_long_it_waited_for_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, said, counted = run_in(tmp_path), list[str](), list[int]()
    train, setting = run.of(Train), Setting(synthetic_ratio=1.0, num_clusters=1)
    trainings = [
        Training(name=name, setting=setting, seed=0, diagnosed=name.endswith("0"))
        for name in ("before-0", "read-0", "held-0", "read-1")
    ]

    def ended(training: Training, **row: float) -> None:
        for file in (training.file, training.regions, training.region_report):
            run.folder.write(file, b"{}")
        run.folder.write_json(training.history, [{"update": 1.0, "waiting": 0.9}, {"update": 2.0, **row}])

    monkeypatch.setattr(train, "trainings", lambda: trainings)
    monkeypatch.setattr(train.inputs.reporter, "say", said.append)
    ended(trainings[0], waiting=0.5)
    advance = train._with_waits(counted.append)
    advance(1)
    ended(trainings[1], waiting=0.25)
    advance(2)
    advance(2)
    ended(trainings[2])
    ended(trainings[3], waiting=0.7)
    advance(4)
    assert counted == [1, 2, 2, 4]
    assert [line.partition(";")[0] for line in said] == ["train: read-0: 25 % of the time was waited for images"]
