"""Captions of real images, from files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ray_synth.data.images import ImageSet
from ray_synth.errors import InputError
from ray_synth.generator.describe import read_captions


def test_captions_come_from_the_usual_files(tmp_path: Path) -> None:
    images = ImageSet(
        pixels=np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1),
        labels=np.array([0, 1]),
        class_names=("a", "b"),
        sources=np.array([str(tmp_path / "a" / "1.png"), str(tmp_path / "b" / "2.png")], dtype=object),
    )
    csv, lines = tmp_path / "metadata.csv", tmp_path / "metadata.jsonl"
    csv.write_text('file_name,text\na/1.png,"one, red"\nb/2.png,two\n')
    rows = [{"file_name": "a/1.png", "text": "one, red"}, {"file_name": "b/2.png", "text": "two"}]
    lines.write_text("\n".join(json.dumps(row) for row in rows))
    for file in (csv, lines):
        assert read_captions(str(file), images, str(tmp_path)) == dict(
            zip(images.keys(), ["one, red", "two"], strict=True)
        )
    csv.write_text("file_name,text\na/1.png,one\n")
    with pytest.raises(InputError, match=r"no caption for b/2\.png"):
        read_captions(str(csv), images, str(tmp_path))
    csv.write_text("file,caption\na/1.png,one\n")
    with pytest.raises(InputError, match="columns file_name and text"):
        read_captions(str(csv), images, str(tmp_path))
