"""Copies among synthetic images are counted, the closest pairs shown, by the limit that is set or calibrated."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from ray_synth.config import Copies
from ray_synth.data.images import ImageSet
from ray_synth.data.splits import Splits
from ray_synth.evaluators.context import EvaluationContext
from ray_synth.evaluators.copies import PAIRS, copies

from .test_fidelity import context_of


@pytest.fixture(scope="module")
def context(splits: Splits) -> EvaluationContext:
    """40 new digits, of which 4 are copies of the first real ones, one of them mirrored."""
    real, new = splits.generator.take(slice(150)), splits.test.take(np.arange(0, 480, 12))
    pixels = new.images().copy()
    pixels[:4] = real.images()[:4]
    pixels[3] = pixels[3, :, ::-1]
    return context_of(real, ImageSet(pixels=pixels, labels=new.labels, class_names=new.class_names))


def test_copies_are_counted_and_the_closest_pairs_are_shown(context: EvaluationContext) -> None:
    found = dict(copies(context))
    assert found["copies/looked_at"] == 40
    assert 4 <= found["copies/found"] <= 6
    assert found["copies/share"] == found["copies/found"] / 40
    assert found["copies/closest"] == pytest.approx(0, abs=1e-2)
    assert found["copies/by_chance"] == pytest.approx(40 / 151)
    details = context.details["copies"]
    assert (details["compared_by"], details["digest"]) == ("grey pixels at 8 a side", None)
    pairs = details["pairs"]
    assert len(pairs) == PAIRS
    assert {(pair["synthetic"], pair["real"]) for pair in pairs[:4]} == {(str(i), str(i)) for i in range(4)}
    assert [pair["distance"] for pair in pairs] == sorted(pair["distance"] for pair in pairs)
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in pairs[0]["pictures"]]
    assert shown[0].shape == (8, 8)


def test_a_limit_that_is_set_is_the_one(context: EvaluationContext) -> None:
    nearest = {"copies/found": 40, "copies/limit": 1.0}
    all_of_them = dict(copies(replace(context, copies=Copies(threshold=1.0))))
    assert {name: all_of_them[name] for name in nearest} == nearest
    assert "copies/by_chance" not in all_of_them
    alike = dict(copies(replace(context, copies=Copies(similarity=0.9999, images=20))))
    assert alike["copies/looked_at"] == 20
    assert "copies/limit" not in alike
    assert alike["copies/found"] < 4
    with pytest.raises(ValidationError, match="give either threshold or similarity"):
        Copies(threshold=0.5, similarity=0.5)


def test_a_missing_file_is_replaced_only_when_asked(context: EvaluationContext, tmp_path: Path) -> None:
    word = f"sscd:sscd_disc_mixup:{tmp_path / 'none.torchscript.pt'}"
    with pytest.raises(Exception, match=r"no SSCD model at .*; download https"):
        dict(copies(replace(context, copies=Copies(features=word))))
    asked = replace(context, copies=Copies(features=word, or_pixels=True))
    assert dict(copies(asked))["copies/found"] >= 4
    assert asked.details["copies"]["instead_of"] == word
