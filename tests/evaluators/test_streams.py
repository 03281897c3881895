"""What evaluators say is the same, whether images are in memory or read a block at a time: never all at once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from ray_synth.config import Copies
from ray_synth.data import images
from ray_synth.data.source import BATCH, ImageSource, Rows
from ray_synth.data.splits import Splits
from ray_synth.evaluators.copies import copies
from ray_synth.evaluators.fidelity import label_fidelity, spectral_distance
from ray_synth.evaluators.seen import feature_distance
from ray_synth.features import copies as nearness

from .test_fidelity import context_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Streamed(ImageSource):
    """Notes how many images are decoded at once."""

    whole: ImageSource
    asked: list[int] = field(default_factory=list)

    def images(self, rows: Rows | None = None) -> np.ndarray:
        found = self.whole.images(rows)
        self.asked.append(len(found))
        return found

    def _taken(self, rows: Rows) -> dict[str, Any]:
        return {"whole": self.whole.take(rows)}


def streamed(source: ImageSource) -> Streamed:
    rows = np.tile(np.arange(len(source)), -(-3 * BATCH // len(source)))  # of three blocks and more
    return Streamed(**source.described(), shape=source.shape, whole=source).take(rows)


@pytest.mark.parametrize("evaluator", [label_fidelity, spectral_distance, feature_distance, copies])
@pytest.mark.parametrize("most_bytes", [2**29, 0])
def test_no_evaluator_holds_a_set_of_pixels(
    evaluator: Any, most_bytes: int, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "SHARE", 0.0)  # no source fits into memory
    monkeypatch.setattr(nearness, "MOST_BYTES", most_bytes)  # without crops of real images
    real, synthetic = streamed(splits.generator), streamed(splits.test)
    settings = {"copies": Copies(images=len(synthetic))}
    read = replace(context_of(real, synthetic), test=splits.validation, **settings)  # type: ignore[arg-type]
    held = replace(
        read,
        train=images.in_memory(real),
        read_all_but_test=lambda: images.in_memory(real),
        read_synthetic=lambda: images.in_memory(synthetic),
    )
    expected = dict(evaluator(held))
    real.asked.clear(), synthetic.asked.clear()
    assert dict(evaluator(read)) == expected
    assert sum(synthetic.asked) >= len(synthetic)
    assert max(real.asked + synthetic.asked) <= BATCH
