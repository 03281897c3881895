"""The sections of classes, calibration, gains and shifted images: their words, orders and pictures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from jinja2 import Environment, PackageLoader

from ray_synth.report.html import SECTIONS
from ray_synth.report.sections.gains import sentence
from ray_synth.report.sections.shown import Shown

from ..evaluators.test_accuracy import Told, context_of, logits_for, numbered, wrong_at

GAINS = {
    "gain/total": 0.076, "gain/tuning": 0.011, "gain/synthetic": 0.065, "gain/augmentation": 0.02,
    "gain/total/low": 0.06, "gain/total/high": 0.09, "gain/synthetic/low": 0.05, "gain/synthetic/high": 0.08,
    "gain/tuning/low": 0.0, "gain/tuning/high": 0.02, "gain/augmentation/low": 0.01, "gain/augmentation/high": 0.03,
}  # fmt: skip


def test_one_line_says_what_gave_the_gain() -> None:
    said = sentence(GAINS, 4.0)
    assert said.startswith(
        "Of the +7.6 points over real images alone, tuning gave 1.1 and the synthetic images 6.5 (±1.5)."
    )
    assert said.endswith("Classical augmentation in their place gave 2.0 (±1.0).")
    assert "takes no synthetic images" in sentence(GAINS, 0.0)
    assert "was not measured" in sentence({key: v for key, v in GAINS.items() if "total" in key}, 4.0)
    assert sentence({}, 4.0) == ""


@pytest.fixture(scope="module")
def results() -> Any:
    """Of a run whose best setting loses one class, `<b>`, and wins another."""
    from dataclasses import replace

    from ray_synth.data.ood import FurtherSet
    from ray_synth.evaluators.accuracy import final_accuracy
    from ray_synth.evaluators.ood import corruption, shifted

    labels = np.arange(140) % 7
    test = replace(numbered(labels), class_names=("<b>", *"bcdefg"))
    lost, won = np.flatnonzero(labels == 0)[:15], np.flatnonzero(labels == 3)[:5]
    said = [("real_only", Told(logits_for(wrong_at(labels, won)))), ("best", Told(logits_for(wrong_at(labels, lost))))]
    further = FurtherSet(name="phones", images=test.take(labels < 3), classes=np.arange(3), notes=("<i>",))
    context = context_of(test, said, further=[further], same={"real_only_tuned": "real_only"})
    metrics = {**dict(final_accuracy(context)), **dict(shifted(context))}
    # Pixels are numbers of images here, which a corruption would take for others.
    constant = [("real_only", Told(np.ones((2**16, 7)))), ("best", Told(np.ones((2**16, 7))))]
    other = context_of(test, constant, corruptions=("contrast",), details=context.details)
    metrics |= dict(corruption(other))
    return SimpleNamespace(metrics=metrics, details=context.details, summary=SimpleNamespace(best_ratio=4.0))


def body(name: str, results: Any) -> str:
    shown = SECTIONS[name](results)
    assert isinstance(shown, Shown)
    templates = Environment(autoescape=True, loader=PackageLoader("ray_synth.report"))
    return templates.get_template(shown.template).render(shown.values)


def test_classes_that_lose_most_come_first_and_their_names_are_text(results: Any) -> None:
    text = body("classes", results)
    rows = text.split("<tr>")[2:]
    assert rows[0].startswith("<td>&lt;b&gt;</td>")
    assert "-75.0" in rows[0]
    assert "b (75 %)" in rows[0]
    assert rows[-1].startswith("<td>d</td>")
    assert "1 of 7 classes is worse" in text
    assert text.count("<svg") == 1


def test_gains_calibration_and_shifts_show_their_figures(results: Any) -> None:
    gains = body("gains", results)
    assert f"{results.metrics['accuracy/best']:.4f}" in gains
    assert "Of the -7.1 points over real images alone, tuning gave 0.0" in gains
    assert "it is real images only" in gains
    calibration = body("calibration", results)
    assert f"{results.metrics['calibration_error/best']:.4f}" in calibration
    assert "<svg" in calibration
    shifts = body("shifts", results)
    assert "phones: 60 images of 3 of 7 classes; &lt;i&gt;" in shifts
    assert f"{results.metrics['ood/phones/best']:.4f}" in shifts
    assert "with the constants of CIFAR-10-C" in shifts
    assert shifts.count("<table>") == 2
    assert "tuned" not in shifts  # which would be the same column again


def test_what_was_not_measured_has_no_section() -> None:
    nothing = SimpleNamespace(metrics={}, details={}, summary=SimpleNamespace(best_ratio=1.0))
    for name in ("gains", "classes", "calibration", "shifts"):
        assert SECTIONS[name](nothing) is None  # type: ignore[arg-type]
