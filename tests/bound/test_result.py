"""An estimate is read back as it was written; one that was cut short names what is missing."""

from __future__ import annotations

import json
from typing import Any

import pytest

import ray_synth as rs
from ray_synth.data.splits import Splits


@pytest.fixture(scope="module")
def found(splits: Splits) -> rs.RatioEstimate:
    real, synthetic = splits.train, splits.generator
    found: rs.RatioEstimate = rs.estimate_ratio(
        real.images(), real.labels, synthetic.images(), synthetic.labels, methods=("closed_form",), max_ratio=4.0
    )
    return found


def test_an_estimate_is_read_back_as_it_was_written(found: rs.RatioEstimate) -> None:
    assert found.classes
    assert found.weights
    assert set(found.methods) == {"probe", "closed_form"}
    text = json.dumps(found.to_dict(), allow_nan=False)
    again = rs.RatioEstimate.from_dict(json.loads(text))
    assert again == found
    assert json.dumps(again.to_dict()) == text


@pytest.mark.parametrize(
    ("torn", "field"),
    [
        (lambda plain: plain.pop("curve"), "curve: Field required"),
        (lambda plain: plain["curve"].pop("low"), r"curve\.low: Field required"),
        (lambda plain: plain["classes"][2].pop("recall"), r"classes\.2\.recall: Field required"),
        (lambda plain: plain.update(verdict="perhaps"), "verdict: "),
        (lambda plain: plain.update(interval=[1.0]), "interval"),
    ],
)
def test_one_that_was_cut_short_names_what_is_missing(found: rs.RatioEstimate, torn: Any, field: str) -> None:
    plain = json.loads(json.dumps(found.to_dict()))
    torn(plain)
    with pytest.raises(rs.InputError, match=rf"estimate\.json cannot be read: {field}"):
        rs.RatioEstimate.from_dict(plain)
