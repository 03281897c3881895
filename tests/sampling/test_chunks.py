"""Exactly once: whatever chunks exist, the missing ones complete the plan; growth adds and never repeats."""

from __future__ import annotations

import dataclasses
import io
import os
import random as randomness
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_synth.errors import Spoiled, WorkError
from ray_synth.runs import RunFolder
from ray_synth.sampling.chunks import (
    SCHEMA,
    SCORES,
    Chunk,
    Plan,
    Remaining,
    encoded,
    finished_chunks,
    read_rows,
    read_synthetic,
    rejected_counts,
    work_left,
    write_chunk,
)
from ray_synth.seeding import image_seed

from ..data.test_readers import Harm

DIGEST = "0123456789abcdef"
PLAN = Plan(generator_digest=DIGEST, chunk_digest=DIGEST[::-1], images_per_class=(10,) * 3, chunk_size=4)
PREFIX = PLAN.chunk_digest[:12]
NAMES = ("zero", "../one", "dwie/😀")


def plan(images_per_class: int, chunk_size: int, max_attempts: int = 1) -> Plan:
    return dataclasses.replace(
        PLAN, images_per_class=(images_per_class,) * 3, chunk_size=chunk_size, max_attempts=max_attempts
    )


def missing(finished: list[Chunk], images_per_class: int, chunk_size: int) -> list[Chunk]:
    return work_left(sorted(finished), plan(images_per_class, chunk_size)).missing


def test_of_each_class_as_many_as_are_asked_for() -> None:
    wanted = dataclasses.replace(PLAN, images_per_class=(3, 10, 0))
    made = work_left([], wanted).missing
    assert [len(covered(made, label)) for label in range(3)] == [3, 10, 0]
    more = work_left(sorted(made), dataclasses.replace(PLAN, images_per_class=(5, 8, 1))).missing
    assert [covered(more, label) for label in range(3)] == [[3, 4], [], [0]]


def covered(chunks: list[Chunk], label: int) -> list[int]:
    return sorted(index for chunk in chunks if chunk.label == label for index in range(chunk.start, chunk.stop))


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_any_history_of_growth_and_kills_covers_every_index_once(
    history: list[tuple[int, int]], random: randomness.Random
) -> None:
    finished: list[Chunk] = []
    for images_per_class, chunk_size in history:
        finished += [chunk for chunk in missing(finished, images_per_class, chunk_size) if random.random() < 0.5]
    last = max(images for images, _ in history)
    finished += missing(finished, last, history[-1][1])
    for label in range(3):
        assert covered(finished, label) == list(range(last))
    assert missing(finished, last, 7) == []


def test_growth_makes_the_new_images_only() -> None:
    first = missing([], 64, 64)
    grown = missing(first, 500, 64)
    assert [len(covered(grown, label)) for label in range(3)] == [436] * 3
    assert min(covered(grown, 0)) == 64


def taken(chunk: Chunk, rate: float) -> Chunk:
    """The chunk as it is when made: each index is rejected or not, whenever it is made."""
    rejected = [randomness.Random(f"{chunk.label} {i}").random() < rate for i in range(chunk.start, chunk.stop)]
    return dataclasses.replace(chunk, rejected=sum(rejected))


@given(st.integers(1, 60), st.integers(1, 12), st.sampled_from([0.0, 0.1, 0.6]), st.randoms(use_true_random=False))
def test_rejected_images_are_replaced_and_kills_change_nothing(
    images_per_class: int, chunk_size: int, rate: float, random: randomness.Random
) -> None:
    wanted = plan(images_per_class, chunk_size, max_attempts=50)

    def run(killed: bool) -> list[Chunk]:
        finished: list[Chunk] = []
        while True:
            work = work_left(sorted(finished), wanted)
            assert not work.short or rate
            if not work.missing:
                return sorted(finished)
            made = [chunk for chunk in work.missing if not killed or random.random() < 0.5]
            finished += [taken(chunk, rate) for chunk in made]

    undisturbed = run(killed=False)
    assert run(killed=True) == undisturbed
    for label in range(3):
        mine = [chunk for chunk in undisturbed if chunk.label == label]
        indices = covered(mine, label)
        assert indices == list(range(len(indices)))
        if label not in work_left(undisturbed, wanted).short:
            assert len(indices) - sum(chunk.rejected for chunk in mine) >= images_per_class


def test_attempts_end() -> None:
    wanted, finished, rounds = plan(10, 4, max_attempts=3), [], 0
    while (work := work_left(sorted(finished), wanted)).missing:
        finished += [dataclasses.replace(chunk, rejected=round(0.9 * len(chunk))) for chunk in work.missing]
        rounds += 1
    assert max(chunk.stop for chunk in finished) <= 30
    assert rounds <= 3
    assert set(work.short) == {0, 1, 2}
    # A filter that takes everything takes the next ones too: no second round where that is plain.
    many = plan(40, 4, max_attempts=3)
    nothing = [dataclasses.replace(chunk, rejected=len(chunk)) for chunk in work_left([], many).missing]
    assert work_left(nothing, many).missing == []
    assert work_left(nothing, many).short == {0: 0, 1: 0, 2: 0}
    few = plan(1, 4, max_attempts=3)
    one = [dataclasses.replace(chunk, rejected=1) for chunk in work_left([], few).missing]
    assert len(work_left(one, few).missing) == 3


def test_fewer_images_than_before_are_no_shortfall() -> None:
    """500 asked at little acceptance, 113 kept; then 80 asked: they are there."""
    many = plan(500, 100, max_attempts=4)
    finished = [Chunk(PREFIX, label, i, i + 100, rejected=94) for label in range(3) for i in range(0, 2000, 100)]
    assert work_left(finished, many).short == {0: 120, 1: 120, 2: 120}
    assert work_left(finished, plan(80, 100, max_attempts=4)) == Remaining([], {})


def test_images_that_exist_are_not_asked_for_beyond_the_last() -> None:
    wanted = dataclasses.replace(plan(10, 4, max_attempts=5), available=(10, 11, 30))
    finished = [dataclasses.replace(chunk, rejected=chunk.start == 0) for chunk in work_left([], wanted).missing]
    work = work_left(sorted(finished), wanted)
    assert work.short == {0: 9}
    assert [(chunk.label, chunk.start) for chunk in work.missing] == [(1, 10), (2, 10), (2, 12)]


def write(folder: RunFolder, chunk: Chunk, rejected: tuple[int, ...] = (), wanted: Plan = PLAN) -> Chunk:
    seeds = [image_seed(DIGEST, chunk.label, index) for index in range(chunk.start, chunk.stop)]
    return write_rows(folder, wanted, chunk, chunk.label, seeds, rejected)


def write_rows(
    folder: RunFolder, wanted: Plan, chunk: Chunk, label: int, seeds: list[int], rejected: tuple[int, ...] = ()
) -> Chunk:
    """seeds: of which the images are made."""
    indices = range(chunk.start, chunk.stop)
    rows = {
        "key": [wanted.key(chunk.label, index) for index in indices],
        "image": [encoded(np.full((4, 5, 3), seed % 251, dtype=np.uint8), "png", 95) for seed in seeds],
        "label": label,
        "class_name": NAMES[label],
        "source": "synthetic",
        "prompt": "p",
        "negative_prompt": "",
        "seed": seeds,
        "parent_key": None,
        "model_id": "m",
        "model_revision": "r",
        "model_license": "",
        "cluster": None,
        "rejected": ["blank" if index in rejected else "" for index in indices],
    }
    return write_chunk(folder, chunk, rows)


def read(folder: RunFolder, wanted: Plan = PLAN):
    return read_synthetic(folder, wanted, class_names=NAMES, shape=(4, 5, 3))


def pixels(label: int, indices: list[int]) -> list[int]:
    return [image_seed(DIGEST, label, index) % 251 for index in indices]


def test_images_come_back_by_class_and_index(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for chunk in reversed(missing([], 10, 4)):
        write(folder, chunk)
    images = read(folder)
    assert images.images()[:, 0, 0, 0].tolist() == [v for label in range(3) for v in pixels(label, list(range(10)))]
    assert images.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    prefix = read(folder, plan(7, 4))
    assert (prefix.images()[:7] == images.images()[:7]).all()
    assert len(prefix) == 21
    assert [p.name for p in tmp_path.iterdir()] == ["synthetic"]  # a class name with a slash leads nowhere


def test_images_take_the_size_and_mode_of_the_real_ones(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for chunk in missing([], 10, 4):
        write(folder, chunk)
    small = read_synthetic(folder, PLAN, class_names=NAMES, shape=(2, 2, 1))
    assert small.images().shape == (30, 2, 2, 1)
    assert small.images()[:10, 0, 0, 0].tolist() == pixels(0, list(range(10)))


def test_images_are_cropped_where_the_real_ones_are(tmp_path: Path) -> None:
    wide = np.zeros((8, 16, 3), dtype=np.uint8)
    wide[:, 4:12] = 255
    folder = RunFolder(tmp_path)
    for chunk in missing([], 10, 10):
        rows = (
            dict.fromkeys(SCHEMA.names, "") | dict.fromkeys(SCORES) | {"label": chunk.label, "seed": 0, "cluster": None}
        )
        keys = [PLAN.key(chunk.label, index) for index in range(10)]
        write_chunk(folder, chunk, rows | {"key": keys, "image": encoded(wide, "png", 95)})
    stretched, cropped = (
        read_synthetic(folder, PLAN, class_names=NAMES, shape=(8, 8, 3), crop=crop).images() for crop in (False, True)
    )
    assert (cropped == 255).all()
    assert stretched[0, :, 0].max() < 10


def test_rejected_images_stay_in_their_chunk_and_are_not_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    wanted = plan(10, 4, max_attempts=3)
    for chunk in work_left([], wanted).missing:
        write(folder, chunk, rejected=(1, 5))
    assert sum(name.endswith("-00001.parquet") for name in folder.list("synthetic")) == 6
    refill = work_left(finished_chunks(folder, wanted), wanted).missing
    assert [(chunk.start, chunk.stop) for chunk in refill if chunk.label == 0] == [(10, 12), (12, 14)]
    for chunk in refill:
        write(folder, chunk)
    assert work_left(finished_chunks(folder, wanted), wanted).missing == []
    images = read(folder, wanted)
    assert images.images()[:10, 0, 0, 0].tolist() == pixels(0, [0, 2, 3, 4, 6, 7, 8, 9, 10, 11])
    counts, keys = rejected_counts(folder, wanted, listed=100)
    assert counts == {"blank": 6}
    assert keys == [(PLAN.key(label, index), "blank") for label in range(3) for index in (1, 5)]


def test_overlapping_chunks_of_two_drivers_count_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for chunk in missing([], 10, 4) + missing([], 10, 3):
        write(folder, chunk)
    rows = [row["key"] for _, found in read_rows(folder, PLAN, ["key"]) for row in found]
    assert rows == [PLAN.key(label, index) for label in range(3) for index in range(10)]


def test_a_row_tells_where_the_image_comes_from(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(folder, Chunk(PREFIX, 1, 0, 2))
    row = pq.read_table(io.BytesIO(folder.read(f"synthetic/{folder.list('synthetic')[0]}"))).to_pylist()[1]
    assert row["key"] == PLAN.key(1, 1) == "0123456789ab-00001-00000001"
    assert row["seed"] == image_seed(DIGEST, 1, 1)
    assert (row["source"], row["class_name"], row["rejected"]) == ("synthetic", "../one", "")
    assert set(row) == {
        "key", "image", "label", "class_name", "source", "prompt", "negative_prompt", "seed", "parent_key", "model_id",
        "model_revision", "model_license", "cluster", "rejected", "near_copy_distance", "clip_probability",
    }  # fmt: skip


def test_a_missing_or_broken_chunk_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for chunk in missing([], 10, 10):
        write(folder, chunk)
    victim = tmp_path / "synthetic" / finished_chunks(folder, PLAN)[1].name
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WorkError, match=victim.name):
        read(folder)
    other = dataclasses.replace(PLAN, generator_digest="f" * 16)
    write(folder, Chunk(PREFIX, 1, 0, 10), wanted=other)
    with pytest.raises(WorkError, match="does not hold the keys"):
        read(folder)
    victim.unlink()
    with pytest.raises(WorkError, match="10 missing"):
        read(folder)


def test_chunks_of_another_generator_are_not_seen(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(folder, Chunk("f" * 12, 0, 0, 4))
    assert finished_chunks(folder, PLAN) == []


@pytest.mark.parametrize(("format", "quality", "exact"), [("png", 95, True), ("webp", 100, True), ("jpeg", 95, False)])
def test_images_survive_their_format(tmp_path: Path, format: str, quality: int, exact: bool) -> None:
    from PIL import Image

    x = np.linspace(0, 255, 32)
    image = np.stack([np.add.outer(x, x) / 2, np.add.outer(x, -x) / 2 + 127, np.tile(x, (32, 1))], axis=-1)
    image = image.astype(np.uint8)
    back = np.asarray(Image.open(io.BytesIO(encoded(image, format, quality)))).astype(int)
    assert np.abs(back - image).max() <= (0 if exact else 12)


def test_seeds_are_of_the_generator_the_class_and_the_index() -> None:
    seeds = {image_seed(d, c, i) for d in ("a", "b") for c in range(5) for i in range(200)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_chunks_that_were_changed_are_named_all_of_them(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for chunk in missing([], 10, 5):
        write(folder, chunk)
    victims = [finished_chunks(folder, PLAN)[k].name for k in (1, 4)]
    for name in victims:
        file = tmp_path / "synthetic" / name
        data = bytearray(file.read_bytes())
        data[data.index(b"IHDR") + 30] ^= 4  # within an image
        file.write_bytes(data)
    assert len(list(read_rows(folder, PLAN, ["key"]))) == 6  # keys are as they were
    images = read(folder)
    with pytest.raises(Spoiled, match=rf"{victims[0]} cannot be read \(its column image is not what was written"):
        images.images()
    with pytest.raises(Spoiled, match="remove it and run `generate` again, which makes it anew") as error:
        list(read_rows(folder, PLAN, ["image"]))
    assert error.value.names == tuple(f"synthetic/{name}" for name in victims)


def test_a_chunk_that_asks_for_code_is_refused_before_it_runs(tmp_path: Path) -> None:
    import pyarrow as pa
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray  # registers the type

    folder = RunFolder(tmp_path)
    for chunk in missing([], 10, 10):
        write(folder, chunk)
    victim = tmp_path / "synthetic" / finished_chunks(folder, PLAN)[0].name
    table = pq.read_table(victim)
    for name in ("key", "image"):
        harm = ArrowPythonObjectArray.from_objects([Harm(os.system, f"touch {tmp_path}/ran")] * 10)
        pq.write_table(pa.table({**{n: table[n] for n in table.column_names}, name: harm}), victim)
        with pytest.raises(Spoiled, match=rf"{victim.name} cannot be read .*arrow_pickled_object, which may run code"):
            list(read_rows(folder, PLAN, ["image"]))
        with pytest.raises(Spoiled, match="may run code"):
            read(folder).images()
    assert not (tmp_path / "ran").exists()
