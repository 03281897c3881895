"""A new evaluator is one function and one registration; one that fails keeps nobody else's numbers back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import ray_synth as rs
from ray_synth.errors import PartlyDone
from ray_synth.evaluators.context import EvaluationContext
from ray_synth.evaluators.table import EVALUATORS

from ..conftest import DIGITS, TINY


def brightness(context: EvaluationContext) -> Iterator[tuple[str, float]]:
    yield "brightness/real", float(context.train.images().mean() / 255)
    yield "brightness/synthetic", float(context.synthetic.images().mean() / 255)


def broken(context: EvaluationContext) -> Iterator[tuple[str, float]]:
    yield "broken/half", 1.0
    raise ZeroDivisionError("this one fails\non its second line too")


@pytest.mark.slow
@pytest.mark.long
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
