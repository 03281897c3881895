"""A new evaluator is one function and one registration; one that fails keeps nobody else's numbers back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ray_synth as rs
from ray_synth.data.splits import Splits
from ray_synth.errors import PartlyDone
from ray_synth.evaluators.context import EvaluationContext
from ray_synth.evaluators.table import EVALUATORS, evaluated, failed_in

from ..conftest import DIGITS, TINY
from .test_fidelity import context_of


def brightness(context: EvaluationContext) -> Iterator[tuple[str, float]]:
    yield "brightness/real", float(context.train.images.mean() / 255)
    yield "brightness/synthetic", float(context.synthetic.images.mean() / 255)


def broken(context: EvaluationContext) -> Iterator[tuple[str, float]]:
    yield "broken/half", 1.0
    raise ZeroDivisionError("this one fails\non its second line too")


def test_numbers_of_all_but_those_that_fail(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(EVALUATORS):
        monkeypatch.delitem(EVALUATORS, name)
    monkeypatch.setitem(EVALUATORS, "broken", broken)
    monkeypatch.setitem(EVALUATORS, "brightness", brightness)
    monkeypatch.setitem(EVALUATORS, "again", brightness)
    monkeypatch.setitem(EVALUATORS, "infinite", lambda context: iter([("infinite", math.inf)]))
    done: list[int] = []
    logged: list[str] = []
    metrics, errors = evaluated(
        context_of(splits.train, splits.test), done.append, failed=lambda: logged.append("a traceback")
    )
    assert done == [1, 2, 3, 4]
    assert set(metrics) == {"brightness/real", "brightness/synthetic", "failed/broken", "failed/again"}
    assert metrics["brightness/real"] == pytest.approx(np.mean(splits.train.images) / 255)
    assert errors["broken"] == "ZeroDivisionError: this one fails"
    assert "another evaluator says brightness/real" in errors["again"]
    assert failed_in(metrics) == ("broken", "again")
    assert len(logged) == 2


def test_images_are_read_when_they_are_asked_for_and_once(splits: Splits) -> None:
    read: list[str] = []

    def reading(name: str) -> object:
        read.append(name)
        return splits.test

    context = EvaluationContext(
        classifiers=(),
        train=splits.train,
        test=splits.test,
        read_all_but_test=lambda: reading("all but test"),  # type: ignore[return-value,arg-type]
        read_synthetic=lambda: reading("synthetic"),  # type: ignore[return-value,arg-type]
        seed=0,
    )
    assert read == []
    assert context.synthetic is context.synthetic is splits.test
    assert context.all_but_test is context.all_but_test
    assert read == ["synthetic", "all but test"]


@pytest.mark.slow
def test_a_run_with_one_that_fails_writes_all_else_and_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    monkeypatch.setitem(EVALUATORS, "brightness", brightness)
    monkeypatch.setitem(EVALUATORS, "label_fidelity", broken)
    with pytest.raises(PartlyDone, match=r"evaluator label_fidelity failed: ZeroDivisionError: this one fails; "):
        rs.run(DIGITS, out=out, overrides=TINY)
    metrics = json.loads((out / "metrics.json").read_text())
    assert 0 < metrics["brightness/synthetic"] < 1
    assert {"accuracy/best", "rapsd_distance", "failed/label_fidelity"} < set(metrics)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["failed"], summary["label_fidelity"]) == (["label_fidelity"], None)
    assert "label_fidelity failed" in (out / "report.html").read_text()
    assert "ZeroDivisionError" in (out / "log.txt").read_text()
    mended = [("label_fidelity", 0.5), ("label_fidelity/judge_accuracy", 0.75)]
    monkeypatch.setitem(EVALUATORS, "label_fidelity", lambda context: iter(mended))
    assert rs.run(DIGITS, out=out, overrides=TINY)["label_fidelity"] == 0.5  # the same words again
    assert "failed" not in json.loads((out / "summary.json").read_text())
    page = (out / "report.html").read_text()
    assert "50.0 % of those" in page
    assert "label_fidelity failed" not in page
