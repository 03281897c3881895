"""RatioBench's cells are the same wherever their images come from."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.ratiobench import cells
from tests.benchmarks.ratiobench.cells import Cell, at_hand, load_cell

CELL = Cell("fashion_mnist", 40, "1:20", "smote")
IMAGES = {"train": 60_000, "t10k": 10_000}  # of the official set


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as Debian's, of images whose first three bytes are their number; and no measuring data."""
    numbers = np.arange(sum(IMAGES.values()))
    images = np.zeros((len(numbers), 784), dtype=np.uint8)
    images[:, :3] = np.stack([numbers >> 16, numbers >> 8, numbers], axis=1) & 255
    first = IMAGES["train"]
    for split, rows in (("train", slice(first)), ("t10k", slice(first, None))):
        files = {"images-idx3": bytes(16) + images[rows].tobytes()}
        files["labels-idx1"] = bytes(8) + (numbers[rows] % 10).astype(np.uint8).tobytes()
        for kind, held in files.items():
            (tmp_path / f"{split}-{kind}-ubyte.gz").write_bytes(gzip.compress(held, 1))
    monkeypatch.delenv("RAY_SYNTH_DATA", raising=False)
    monkeypatch.setattr(cells, "OFFICIAL", tmp_path)
    _forget()
    yield tmp_path
    _forget()


def _forget() -> None:
    cells.dataset_of.cache_clear()
    cells.halves.cache_clear()


def test_fashion_mnist_of_debian_stands_for_the_measuring_data(official: Path) -> None:
    assert at_hand() == ("digits", "fashion_mnist")
    train, labels, test, test_labels = cells.dataset_of("fashion_mnist")
    rows = np.load(cells.ROWS)
    for images, own, wanted in ((train, labels, rows[: cells.MAX_TRAIN]), (test, test_labels, rows[cells.MAX_TRAIN :])):
        assert images.shape[1:] == (28, 28, 1)
        number = images[:, 0, :3, 0].astype(np.int64) @ [1 << 16, 1 << 8, 1]
        assert (number == wanted).all()
        assert (own == wanted % 10).all()
    assert len(set(rows.tolist())) == len(rows) == cells.MAX_TRAIN + cells.MAX_TEST


def test_what_is_not_there_is_named_with_what_to_do(official: Path) -> None:
    with pytest.raises(SystemExit, match=r"mnist is not on this machine.*RAY_SYNTH_DATA"):
        cells.dataset_of("mnist")


@pytest.mark.skipif(not cells.OFFICIAL.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_both_give_one_cell(measuring_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _forget()
    one = load_cell(CELL)
    monkeypatch.delenv("RAY_SYNTH_DATA")
    _forget()
    other = load_cell(CELL)
    for name in ("real", "y_real", "synthetic", "y_synthetic", "test", "y_test"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
