"""One contract for images in memory, in files, in chunks and of several sources."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ray_synth as rs
from ray_synth.data import decoding
from ray_synth.data import images as room
from ray_synth.data.images import ImageSet, held, in_memory
from ray_synth.data.readers import list_folder
from ray_synth.data.source import ImageSource, joined
from ray_synth.errors import InputError, WorkError
from ray_synth.runs import RunFolder
from ray_synth.sampling.chunks import SCHEMA, SCORES, Chunk, Plan, encoded, read_synthetic, write_chunk

from ..conftest import DIGITS, TINY

NAMES, EACH, SHAPE = ("a", "b", "c"), 5, (6, 5, 3)
LABELS = np.repeat(np.arange(3), EACH)
PIXELS = np.random.default_rng(0).integers(0, 256, (len(LABELS), *SHAPE), dtype=np.uint8)
MEMORY = ImageSet(pixels=PIXELS, labels=LABELS, class_names=NAMES)
PLAN = Plan(generator_digest="0" * 16, chunk_digest="1" * 16, images_per_class=(EACH,) * 3, chunk_size=4)


def files(root: Path) -> ImageSource:
    for row, image in enumerate(PIXELS):
        place = root / NAMES[LABELS[row]]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{row:03d}.png")
    return list_folder(root).source()


def chunks(root: Path) -> ImageSource:
    """In each class, image 1 was set aside."""
    folder = RunFolder(root)
    for label in range(3):
        mine = list(PIXELS[label == LABELS])
        mine.insert(1, np.zeros_like(mine[0]))
        for start, stop in ((0, 4), (4, 6)):
            rows: dict[str, Any] = dict.fromkeys(SCHEMA.names, "") | {"label": label, "seed": 0, "cluster": None}
            rows |= dict.fromkeys(SCORES)
            rows["key"] = [PLAN.key(label, index) for index in range(start, stop)]
            rows["image"] = [encoded(image, "png", 95) for image in mine[start:stop]]
            rows["rejected"] = ["blank" if index == 1 else "" for index in range(start, stop)]
            write_chunk(folder, Chunk(PLAN.chunk_digest[:12], label, start, stop), rows)
    return read_synthetic(folder, PLAN, class_names=NAMES, shape=SHAPE)


def several(root: Path) -> ImageSource:
    return joined([MEMORY.take(slice(7)), files(root / "files").take(slice(7, 8)), chunks(root).take(slice(8, 15))])


@pytest.fixture(params=[lambda root: MEMORY, files, chunks, several], ids=["memory", "files", "chunks", "several"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> ImageSource:
    make: Callable[[Path], ImageSource] = request.param
    return make(tmp_path)


def test_it_says_what_it_holds(source: ImageSource) -> None:
    assert (len(source), source.shape, source.class_names, source.num_classes) == (15, SHAPE, NAMES, 3)
    assert source.labels.tolist() == LABELS.tolist()
    assert source.labels.dtype == np.int64
    assert source.counts.tolist() == [EACH] * 3


def test_images_come_in_the_order_that_is_asked(source: ImageSource) -> None:
    assert source.images().dtype == np.uint8
    np.testing.assert_array_equal(source.images(), PIXELS)
    for rows in (slice(3, 9), slice(12, 40), slice(0), np.array([14, 0, 7, 7, 3]), np.zeros(0, dtype=np.int64)):
        np.testing.assert_array_equal(source.images(rows), PIXELS[rows])
    assert [len(batch) for batch in source.batches(6)] == [6, 6, 3]
    np.testing.assert_array_equal(np.concatenate(list(source.batches(6))), PIXELS)


def test_some_of_some_are_what_they_were(source: ImageSource) -> None:
    rows, again = np.array([13, 2, 2, 9, 4]), slice(1, 4)
    taken = source.take(rows).take(again)
    np.testing.assert_array_equal(taken.images(), PIXELS[rows][again])
    assert taken.labels.tolist() == LABELS[rows][again].tolist()
    if source.sources is not None:
        assert [taken.name(row) for row in range(3)] == [source.name(row) for row in rows[again]]


def test_a_smaller_one_is_the_same_in_small(source: ImageSource) -> None:
    assert source.within(6).shape == SHAPE
    np.testing.assert_array_equal(source.within(6).images(), PIXELS)
    small = source.within(3)
    assert (small.shape, len(small), small.class_names) == ((3, 2, 3), 15, NAMES)
    assert small.labels.tolist() == LABELS.tolist()
    expected = np.stack([decoding.resized(image, (3, 2)) for image in PIXELS])
    np.testing.assert_array_equal(small.images(), expected)
    np.testing.assert_array_equal(small.take(np.array([9, 2])).images(slice(1, 2)), expected[[2]])
    np.testing.assert_array_equal(np.concatenate(list(small.batches(4))), expected)


def test_keys_and_digest_are_of_the_pixels_alone(source: ImageSource) -> None:
    rows = np.array([13, 2, 9])
    assert source.take(rows).keys() == MEMORY.take(rows).keys()
    assert source.keys() == MEMORY.keys()
    assert source.take(rows).keys() == MEMORY.take(rows).keys()  # known by now
    assert source.digest() == MEMORY.digest()


def test_it_goes_to_another_process(source: ImageSource) -> None:
    again = pickle.loads(pickle.dumps(source))  # noqa: S301
    np.testing.assert_array_equal(again.images(slice(4, 12)), PIXELS[4:12])


def test_it_is_held_in_memory_where_it_is_small(source: ImageSource, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = held(source)
    assert isinstance(kept, ImageSet)
    np.testing.assert_array_equal(kept.images(), PIXELS)
    assert kept.notes == source.notes
    monkeypatch.setattr(room, "SHARE", 0)
    assert held(source) is source
    monkeypatch.setattr(decoding, "machine_memory", lambda: 100)
    if source is not MEMORY:
        with pytest.raises(InputError, match="15 images of 5x6 take"):
            in_memory(source)


def test_a_torn_image_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    source = files(tmp_path)
    victim = Path(source.name(3))
    victim.write_bytes(victim.read_bytes()[:-40])
    source = list_folder(tmp_path).source()  # the head of the file is whole
    np.testing.assert_array_equal(source.take(slice(4, 9)).images(), PIXELS[4:9])
    with pytest.raises(InputError, match=f"cannot be read: .*{victim.name}"):
        source.images()
    victim.write_bytes(b"no image")
    with pytest.raises(InputError, match=f"cannot be read: .*{victim.name}"):
        list_folder(tmp_path).source()


def test_a_torn_chunk_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    source = chunks(tmp_path)
    victim = sorted((tmp_path / "synthetic").iterdir())[2]
    victim.unlink()
    np.testing.assert_array_equal(source.take(slice(5)).images(), PIXELS[:5])
    with pytest.raises(WorkError, match=f"{victim.name} cannot be read"):
        source.images(slice(4, 6))


def test_heads_of_files_say_what_decoding_finds(tmp_path: Path) -> None:
    """Upright ones of other modes, and a photo that lies on its side."""
    for name, mode in (("a", "LA"), ("b", "RGBA")):
        (tmp_path / name).mkdir()
        Image.new(mode, (8, 4)).save(tmp_path / name / "x.png")
        turned = Image.Exif()
        turned[decoding.ORIENTATION] = 6
        for kind in ("jpg", "png"):
            Image.new("L", (4, 8), 7).save(tmp_path / name / f"turned.{kind}", exif=turned)
    source = list_folder(tmp_path).source()
    assert source.shape == (4, 8, 3)
    assert not any("resized" in note for note in source.notes)
    assert {image.shape[:2] for image in source.images()} == {(4, 8)}
    assert "4 image(s) turned from grey to RGB" not in source.notes
    assert "5 image(s) turned from grey to RGB" in source.notes


def test_files_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    source = list_folder(Path("here")).source()
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(source.images(), PIXELS)
    assert source.name(0) == "here/a/000.png"


@pytest.mark.slow
@pytest.mark.long
def test_a_run_on_files_and_chunks_gives_what_one_in_memory_gives(
    tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**TINY, "data.kind": "folder", "data.path": str(image_folder), "sweep.num_trials": 3}

    def ran(out: Path) -> tuple[Any, ...]:
        rs.run(DIGITS, out=out, overrides=settings)
        made = {file.name: file.read_bytes() for file in (out / "synthetic").iterdir()}
        with (out / "sweep" / "trials.csv").open(newline="") as file:
            trials = [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)]
        return made, trials, *((out / name).read_bytes() for name in ("estimate.json", "splits.json", "metrics.json"))

    before = ran(tmp_path / "memory")
    monkeypatch.setattr(room, "SHARE", 0)
    assert ran(tmp_path / "disk") == before
