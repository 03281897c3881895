"""The table of evaluators: all numbers but of one that fails, and no image read before it is asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ray_synth.data.splits import Splits
from ray_synth.evaluators.context import EvaluationContext
from ray_synth.evaluators.table import EVALUATORS, evaluated, failed_in

from .test_fidelity import context_of
from .test_toy_evaluator import brightness, broken


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
    assert metrics["brightness/real"] == pytest.approx(np.mean(splits.train.images()) / 255)
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
