"""Exactly once: whatever chunks exist, the missing ones complete the plan; growth adds and never repeats."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_synth.errors import WorkError
from ray_synth.generator.chunks import Chunk, finished_chunks, image_key, missing_chunks, read_synthetic, write_chunk
from ray_synth.runs import RunFolder
from ray_synth.seeding import image_seed

DIGEST = "0123456789abcdef"
NAMES = ("zero", "../one", "dwie/😀")


def plan(finished: list[Chunk], images_per_class: int, chunk_size: int, num_classes: int = 3) -> list[Chunk]:
    return missing_chunks(
        finished, DIGEST, num_classes=num_classes, images_per_class=images_per_class, chunk_size=chunk_size
    )


def covered(chunks: list[Chunk], label: int) -> list[int]:
    return sorted(index for chunk in chunks if chunk.label == label for index in range(chunk.start, chunk.stop))


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_any_history_of_growth_and_kills_covers_every_index_once(
    history: list[tuple[int, int]], random: object
) -> None:
    finished: list[Chunk] = []
    for images_per_class, chunk_size in history:
        missing = plan(finished, images_per_class, chunk_size)
        finished += [chunk for chunk in missing if random.random() < 0.5]  # type: ignore[attr-defined]
    last = max(images for images, _ in history)
    finished += plan(finished, last, history[-1][1])
    for label in range(3):
        assert covered(finished, label) == list(range(last))
    assert plan(finished, last, 7) == []


def test_growth_makes_the_new_images_only() -> None:
    first = plan([], 64, 64)
    grown = plan(first, 500, 64)
    assert [len(covered(grown, label)) for label in range(3)] == [436] * 3
    assert min(covered(grown, 0)) == 64


def write(folder: RunFolder, chunk: Chunk) -> None:
    seeds = [image_seed(DIGEST, chunk.label, index) for index in range(chunk.start, chunk.stop)]
    images = np.stack([np.full((4, 5, 3), seed % 251, dtype=np.uint8) for seed in seeds])
    write_chunk(folder, chunk, images, class_name=NAMES[chunk.label], seeds=seeds, model_id="m", model_revision="r")


def read(folder: RunFolder, images_per_class: int = 10):
    return read_synthetic(folder, DIGEST, class_names=NAMES, images_per_class=images_per_class)


def test_images_come_back_by_class_and_index(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for chunk in reversed(plan([], 10, 4)):
        write(folder, chunk)
    images, keys = read(folder)
    assert keys == [image_key(DIGEST, label, index) for label in range(3) for index in range(10)]
    expected = [image_seed(DIGEST, label, index) % 251 for label in range(3) for index in range(10)]
    assert images.images[:, 0, 0, 0].tolist() == expected
    assert images.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    prefix, _ = read(folder, images_per_class=7)
    assert (prefix.images[:7] == images.images[:7]).all()
    assert len(prefix) == 21
    assert [p.name for p in tmp_path.iterdir()] == ["synthetic"]  # a class name with a slash leads nowhere


def test_overlapping_chunks_of_two_drivers_count_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for chunk in plan([], 10, 4) + plan([], 10, 3):
        write(folder, chunk)
    images, keys = read(folder)
    assert len(images) == len(set(keys)) == 30


def test_a_row_tells_where_the_image_comes_from(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(folder, Chunk(DIGEST[:12], 1, 0, 2))
    row = pq.read_table(io.BytesIO(folder.read(f"synthetic/{folder.list('synthetic')[0]}"))).to_pylist()[1]
    assert row["key"] == image_key(DIGEST, 1, 1)
    assert row["seed"] == image_seed(DIGEST, 1, 1)
    assert (row["source"], row["class_name"], row["rejected"]) == ("synthetic", "../one", "")
    assert set(row) == {
        "key", "image", "label", "class_name", "source", "prompt", "negative_prompt", "seed", "parent_key", "model_id",
        "model_revision", "cluster", "rejected",
    }  # fmt: skip


def test_a_missing_or_broken_chunk_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for chunk in plan([], 10, 10):
        write(folder, chunk)
    victim = tmp_path / "synthetic" / finished_chunks(folder, DIGEST)[1].name
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WorkError, match=victim.name):
        read(folder)
    victim.unlink()
    with pytest.raises(WorkError, match="10 missing, 0 too many"):
        read(folder)


def test_chunks_of_another_generator_are_not_seen(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(folder, Chunk("f" * 12, 0, 0, 4))
    assert finished_chunks(folder, DIGEST) == []


def test_seeds_are_of_the_generator_the_class_and_the_index() -> None:
    seeds = {image_seed(d, c, i) for d in ("a", "b") for c in range(5) for i in range(200)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
