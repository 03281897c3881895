"""Charts: values lie where their axes say, words are text, and what is not finite is left out."""

from __future__ import annotations

import math
import re

import pytest

from ray_synth.report.charts import Chart, linear_axis, log_axis, ratio_axis


def test_places_follow_the_scales() -> None:
    assert [ratio_axis(15).place(ratio) for ratio in (0, 1, 3, 15)] == pytest.approx([0, 0.25, 0.5, 1])
    assert [log_axis("", [1, 100]).place(value) for value in (1, 10, 100)] == pytest.approx([0, 0.5, 1])
    axis = linear_axis("", [0.5, 9.5])
    assert (axis.low, axis.high) == (0, 10)
    assert axis.place(5) == pytest.approx(0.5)
    assert (axis.place(-3), axis.place(99)) == (0, 1)  # drawn at the end


@pytest.mark.parametrize("values", [[], [math.nan], [3.0], [1e-9, 2e-9], [-5.0, 1e6]])
def test_any_values_have_an_axis_whose_ticks_lie_on_it(values: list[float]) -> None:
    for axis in (linear_axis("", values), linear_axis("", values, snug=True), log_axis("", values)):
        assert axis.low < axis.high
        assert axis.ticks
        assert all(axis.low - 1e-12 <= value <= axis.high * (1 + 1e-9) + 1e-12 for value, _ in axis.ticks)


def test_words_are_text_and_nothing_infinite_is_drawn() -> None:
    chart = Chart(x=linear_axis("<x>", [0, 1]), y=linear_axis('"y"', [0, 1]))
    chart.dots([0, 1, math.inf], [0, math.nan, 1], "blue", "<b>", ['"><script>', "", ""])
    chart.line([0, math.nan, 1], [0, 1, 1], "blue", "a & b")
    text = str(chart.svg("<all>"))
    assert "<script" not in text
    assert "<b>" not in text
    assert text.count("<circle") == 1
    assert not re.search(r"nan|inf", text)
    assert 'data-tip="&#34;&gt;&lt;script&gt;"' in text
