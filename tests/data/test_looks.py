"""Images of files are looked at once on a machine; after a kill, in another order or among more, not again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ray_synth.data import decoding, looks
from ray_synth.data.decoding import Seen
from ray_synth.data.leaks import Fingerprints
from ray_synth.data.listing import FileImages, Listing
from ray_synth.data.looks import fingerprints_of, here, look, seen_in
from ray_synth.data.opening import BrokenImages
from ray_synth.data.source import ImageSource
from ray_synth.kept import Arrays

NUMBER = 60


class Counted:
    """Looks, and counts the images; the process dies before it looks at more than `most`."""

    def __init__(self, most: int = 10**9):
        self.most, self.looked_at = most, 0

    def __call__(self, look: Callable[[ImageSource], Arrays], sources: Sequence[ImageSource]) -> Iterator[Arrays]:
        for source in sources:
            self.looked_at += len(source)
            if self.looked_at > self.most:
                raise KeyboardInterrupt
            yield look(source)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "PART", 6)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of the same names wherever the test runs: they say where parts are cut."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Path("images").mkdir()
    found = [f"images/{number:03d}.png" for number in range(NUMBER)]
    for file in found:
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(file)
    return found


def source(files: Sequence[str], labels: Sequence[int] | None = None) -> FileImages:
    items = np.array(files, dtype=object)
    of_each = np.array([int(Path(file).stem) % 3 for file in files] if labels is None else labels)
    return FileImages(
        items=items, sources=items, labels=of_each, class_names=("a", "b", "c"), shape=(12, 12, 3), crop=False
    )


def check_same(found: Fingerprints, images: FileImages) -> None:
    """As of a look at all of them, none of which was kept."""
    fresh = source(images.items.tolist(), images.labels.tolist())
    expected = Fingerprints.of(fresh)
    assert (found.digests == expected.digests).all()
    assert (found.hashes == expected.hashes).all()
    assert found.names is not None
    assert list(found.names) == images.items.tolist()
    assert images.keys() == fresh.keys()
    assert images.digest() == fresh.digest()


def test_a_look_at_parts_finds_what_one_at_all_finds(files: list[str], tmp_path: Path) -> None:
    images, counted = source(files), Counted()
    check_same(fingerprints_of(images, counted, tmp_path / "kept"), images)
    assert counted.looked_at == NUMBER
    images = source(files)
    check_same(fingerprints_of(images, here, tmp_path / "threads"), images)


def test_what_was_found_before_a_kill_is_found_no_second_time(files: list[str], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fingerprints_of(source(files), Counted(most=25), tmp_path / "kept")
    images, counted = source(files), Counted()
    check_same(fingerprints_of(images, counted, tmp_path / "kept"), images)
    assert NUMBER - 25 <= counted.looked_at < NUMBER
    counted = Counted()
    fingerprints_of(source(files), counted, tmp_path / "kept")
    assert counted.looked_at == 0


def test_another_order_and_more_files_leave_most_as_it_is(files: list[str], tmp_path: Path) -> None:
    fingerprints_of(source(files[:-1]), Counted(), tmp_path / "kept")
    shuffled = np.random.default_rng(1).permutation(files[:-1]).tolist()
    images, counted = source(shuffled), Counted()
    check_same(fingerprints_of(images, counted, tmp_path / "kept"), images)
    assert counted.looked_at == 0
    first = str(Path(files[0]).with_name("000a.png"))
    os.link(files[-1], first)
    more = [files[0], first, *files[1:-1]]
    images = source(more, [int(Path(file).stem[:3]) % 3 for file in more])
    counted = Counted()
    check_same(fingerprints_of(images, counted, tmp_path / "kept"), images)
    assert 0 < counted.looked_at < NUMBER / 2


@pytest.mark.parametrize("change", ["pixels", "class", "size", "torn"])
def test_what_changed_is_looked_at_again(files: list[str], tmp_path: Path, change: str) -> None:
    fingerprints_of(source(files), Counted(), tmp_path / "kept")
    images = source(files)
    if change == "pixels":
        Image.new("RGB", (12, 12), "red").save(files[7])
    elif change == "class":
        images = source(files, [(int(Path(file).stem) + (file == files[7])) % 3 for file in files])
    elif change == "size":
        images = FileImages(**{**images.described(), "items": images.items, "shape": (9, 9, 3), "crop": False})
    else:
        kept = sorted((tmp_path / "kept").iterdir())[0]
        kept.write_bytes(kept.read_bytes()[:-3])
    counted = Counted()
    found = fingerprints_of(images, counted, tmp_path / "kept")
    if change == "size":
        assert (found.digests == Fingerprints.of(images).digests).all()
        assert counted.looked_at == NUMBER
    else:
        check_same(found, images)
        assert 0 < counted.looked_at < NUMBER


def test_torn_images_are_all_said_and_the_rest_is_kept(files: list[str], tmp_path: Path) -> None:
    for number in (7, 50):
        data = Path(files[number]).read_bytes()
        Path(files[number]).write_bytes(data[: len(data) // 2])
    with pytest.raises(BrokenImages) as error:
        fingerprints_of(source(files), here, tmp_path / "kept")
    assert all(files[number] in str(error.value) for number in (7, 50))


def test_a_folder_that_cannot_be_written_costs_time_only(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"")
    images = source(files)
    check_same(fingerprints_of(images, here, tmp_path / "kept"), images)


def test_what_was_used_longest_ago_goes(files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprints_of(source(files), here, tmp_path / "kept")
    sizes = [file.stat().st_size for file in (tmp_path / "kept").iterdir()]
    monkeypatch.setattr(looks, "MAX_BYTES", sum(sizes) // 2)
    Image.new("RGB", (12, 12), "red").save(files[7])
    fingerprints_of(source(files), here, tmp_path / "kept")
    assert sum(file.stat().st_size for file in (tmp_path / "kept").iterdir()) <= sum(sizes) // 2


def test_a_look_says_its_arrays(files: list[str]) -> None:
    found = look(source(files))
    assert {name: (array.dtype, array.shape[0]) for name, array in found.items()} == {
        name: (np.dtype(np.uint8), NUMBER) for name in ("digests", "hashes", "keys")
    }


def test_what_heads_of_files_say_is_kept_in_parts(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "MANY", NUMBER)
    rng = np.random.default_rng(0)
    Image.new("L", (9, 20)).save(files[3])
    Image.new("RGBA", (12, 12)).save(files[4])
    for number, top in ((5, 40_000), (50, 1_000)):  # of more than 8 bits, in two parts
        Image.fromarray(rng.integers(top // 2, top, (12, 12)).astype(np.uint16)).save(files[number])
    opened = list[int]()

    def counted(items: np.ndarray, names: np.ndarray) -> Seen:
        opened.append(len(items))
        return decoding.look(items, names)

    monkeypatch.setattr(looks, "look_at_heads", counted)

    def listing(count: int = NUMBER) -> Listing:
        return Listing(
            items=files[:count],
            names=np.array(files[:count], dtype=object),
            labels=np.arange(count) % 3,
            class_names=("a", "b", "c"),
        )

    for changed in (NUMBER, 0):
        found = seen_in(listing(), tmp_path / "kept")
        assert found == decoding.look(np.array(files, dtype=object), files)
        assert (sum(opened), found is not None and found.deep) == (changed, 2)
        ours, theirs = listing().source(seen=found), listing().source()
        assert (ours.shape, ours.depth, ours.notes) == (theirs.shape, theirs.depth, theirs.notes)
        opened.clear()
    Image.new("RGB", (30, 30)).save(files[7])
    assert seen_in(listing(), tmp_path / "kept") == decoding.look(np.array(files, dtype=object), files)
    assert 0 < sum(opened) < NUMBER
    assert seen_in(listing(NUMBER - 1), tmp_path / "kept") is None  # few
    Path(files[9]).write_bytes(b"no image")
    assert seen_in(listing(), tmp_path / "kept") is None  # a look at all will say which
