"""Images out of packs are those of their files and chunks, to the last bit; packed once, and anew when changed."""

from __future__ import annotations

import functools
import io
import multiprocessing
import os
import pickle
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ray_synth.data import packed as room
from ray_synth.data.images import ImageSet
from ray_synth.data.listing import FileImages
from ray_synth.data.opening import BrokenImages
from ray_synth.data.packed import KEPT, PackedImages, near, packed
from ray_synth.data.source import ImageSource
from ray_synth.errors import InputError, WorkError
from ray_synth.runs import RunFolder
from ray_synth.sampling.chunks import work_left

from ..sampling.test_chunks import PLAN, read, write

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 50, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PART", 8)


@pytest.fixture
def files(tmp_path: Path) -> FileImages:
    (tmp_path / "images").mkdir()
    places = []
    for row, image in enumerate(PIXELS):
        format = ("png", "jpeg", "webp")[row % 3]
        places.append(tmp_path / "images" / f"{row:02d}.{format}")
        Image.fromarray(image).save(places[-1], format=format)
    items = np.array(places, dtype=object)
    labels = np.arange(30) % 3
    return FileImages(
        items=items, sources=items, labels=labels, class_names=("a", "b", "c"), shape=(24, 24, 3), crop=True
    )


def check_same(ours: ImageSource, theirs: ImageSource) -> None:
    rows = np.random.default_rng(1).permutation(len(theirs))[:11]
    assert np.array_equal(ours.images(), theirs.images())
    assert np.array_equal(ours.images(rows), theirs.images(rows))
    assert np.array_equal(ours.take(rows).images(slice(2, 5)), theirs.images(rows[2:5]))
    assert ours.keys() == theirs.keys()
    assert np.array_equal(ours.labels, theirs.labels)
    assert ours.name(3) == theirs.name(3)


def test_images_of_files_are_the_same_out_of_packs(files: FileImages, tmp_path: Path) -> None:
    ours = packed(files, tmp_path / "packs")
    assert isinstance(ours, PackedImages)
    assert len(list((tmp_path / "packs").iterdir())) == 4
    check_same(ours, files)
    check_same(pickle.loads(pickle.dumps(ours)), files)  # noqa: S301  # our own
    check_same(ours.within(12), files.within(12))


def test_images_of_chunks_are_the_same_out_of_packs(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for chunk in work_left([], PLAN).missing:
        write(folder, chunk)
    check_same(packed(read(folder), tmp_path / "packs"), read(folder))


def test_encoded_images_of_a_shard_are_packed_and_arrays_are_left(tmp_path: Path) -> None:
    def png(image: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="png")
        return buffer.getvalue()

    items = np.empty(5, dtype=object)
    items[:] = [png(image) for image in PIXELS[:5]]
    known = {"labels": np.arange(5) % 2, "class_names": ("a", "b"), "shape": (40, 50, 3)}
    check_same(packed(FileImages(items=items, crop=False, **known), tmp_path / "packs"), ImageSet(
        pixels=PIXELS[:5], labels=np.arange(5) % 2, class_names=("a", "b")))  # fmt: skip
    arrays = FileImages(items=PIXELS[:5], crop=False, **known)
    assert packed(arrays, tmp_path / "packs") is arrays


def test_what_is_packed_stays_and_what_changed_is_packed_anew(
    files: FileImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, written, write = tmp_path / "packs", list[str](), room._write
    monkeypatch.setattr(room, "_write", lambda file, images: (written.append(file.name), write(file, images)))
    packed(files, place)
    gone = next(place.iterdir())
    gone.unlink()  # killed before it was made
    written.clear()
    packed(files, place)
    assert written == [gone.name]
    Image.fromarray(255 - PIXELS[9]).save(files.items[9], format="png")
    os.utime(files.items[9], ns=(1, 1))
    again = packed(files, place)
    assert len(list(place.iterdir())) == 5
    assert np.array_equal(again.images(), files.images())


def test_packs_without_an_image_that_is_asked_for_are_not_made(files: FileImages, tmp_path: Path) -> None:
    """Others are shared by whatever rows are asked for, and hold whole parts of the source."""
    place, keys = tmp_path / "packs", files.keys()
    for rows, number in ((np.array([9, 3, 2]), 2), (np.array([15, 0]), 2), (np.arange(8, 30), 4), (np.arange(0), 4)):
        ours = packed(files, place, rows=rows)
        assert len(list(place.iterdir())) == number
        assert np.array_equal(ours.images(), files.images(rows))
        assert np.array_equal(ours.take(slice(1, 3)).images(), files.images(rows[1:3]))
        assert np.array_equal(ours.labels, files.labels[rows])
        assert [ours.name(row) for row in range(len(ours))] == [files.name(row) for row in rows]
        assert "_keys" in vars(ours)
        assert ours.keys() == [keys[row] for row in rows]


def test_a_packing_that_takes_long_is_said(
    files: FileImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place, here = tmp_path / "packs", socket.gethostname()
    packed(files, place, rows=np.arange(8))
    assert capsys.readouterr().err == ""  # nothing of a short one
    monkeypatch.setattr(room, "SAID_AFTER", -1.0)
    monkeypatch.setattr(room, "SAID_EVERY", 0.0)
    packed(files, place)
    *during, last = capsys.readouterr().err.splitlines()
    assert all(re.fullmatch(rf"packing \d+ of 22 images into {place} on {here}", line) for line in during)
    assert during
    assert last == f"packed 22 images in 0 s on {here}"
    packed(files, place)
    assert capsys.readouterr().err == ""


def test_files_are_read_side_by_side_and_few_packs_at_once(
    files: FileImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk far away, where every file is waited for."""
    parts, opened, most, lock = list[int](), [0], [0, 0], threading.Lock()
    read_bytes, encoded = Path.read_bytes, FileImages.encoded

    def slow(path: Path) -> bytes:
        with lock:
            opened[0] += 1
            most[0] = max(most[0], opened[0])
        time.sleep(0.05)
        with lock:
            opened[0] -= 1
        return read_bytes(path)

    def counted(self: FileImages, rows: np.ndarray) -> list[bytes]:
        parts.append(len(rows))
        most[1] = max(most[1], len(parts))
        found = encoded(self, rows)
        parts.pop()
        return found

    monkeypatch.setattr(Path, "read_bytes", slow)
    monkeypatch.setattr(FileImages, "encoded", counted)
    ours = packed(files, tmp_path / "packs")
    monkeypatch.undo()
    assert 8 < most[0] <= 16
    assert most[1] == 2
    check_same(ours, files)


def _pack_and_die(images: FileImages, folder: Path) -> None:
    """Killed before the third pack is there, by the one thread that writes it."""
    room.AT_ONCE = 1
    written, write = list[str](), room._write

    def dying(file: Path, encoded: list[bytes]) -> None:
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        written.append(file.name)
        write(file, encoded)

    room._write = dying
    packed(images, folder)


def test_what_a_killed_packing_has_made_is_not_made_again(
    files: FileImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, write, made = tmp_path / "packs", room._write, list[str]()
    killed = multiprocessing.get_context("fork").Process(target=_pack_and_die, args=(files, place))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    there = {file.name: file.stat().st_ino for file in place.glob("*.arrow")}
    assert len(there) == 2
    monkeypatch.setattr(room, "_write", lambda file, images: (made.append(file.name), write(file, images)))
    check_same(packed(files, place), files)
    assert len(made) == 2
    assert not set(made) & set(there)
    assert there.items() <= {file.name: file.stat().st_ino for file in place.glob("*.arrow")}.items()


def test_an_image_that_is_torn_behind_its_head_is_named(files: FileImages, tmp_path: Path) -> None:
    """Nothing is decoded where images are packed: it is named by who decodes it, as it would be from its file."""
    whole = files.items[4].read_bytes()
    files.items[4].write_bytes(whole[: len(whole) // 2])
    ours = packed(files, tmp_path / "packs")
    for images in (ours, files):
        with pytest.raises(BrokenImages, match=r"04\.jpeg"):
            images.images(np.array([3, 4, 5]))
    files.items[4].write_bytes(whole)  # mended: packed anew
    os.utime(files.items[4], ns=(1, 1))
    check_same(packed(files, tmp_path / "packs"), files)


def _pack(images: FileImages, folder: Path, made: list[str]) -> None:
    packed(images, folder)


def test_two_processes_pack_one_set(files: FileImages, tmp_path: Path) -> None:
    place = tmp_path / "packs"
    context = multiprocessing.get_context("fork")
    several = [context.Process(target=_pack, args=(files, place, [])) for _ in range(2)]
    for each in several:
        each.start()
    for each in several:
        each.join(60)
        assert each.exitcode == 0
    assert len(list(place.iterdir())) == 4
    check_same(packed(files, place), files)


def test_packs_that_were_used_longest_ago_go_and_too_small_a_disk_is_said_before(
    files: FileImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "packs"
    halves = [files.take(slice(0, 16)), files.take(slice(16, 30))]
    sizes = [half.bytes_of(np.arange(len(half))) for half in halves]
    packed(halves[0], place)
    for file in place.iterdir():
        os.utime(file, (1, 1))
    monkeypatch.setenv(KEPT, str((max(sizes) + 4000) / 2**30))
    ours = packed(halves[1], place)
    assert np.array_equal(ours.images(), halves[1].images())
    assert len(list(place.iterdir())) == 2
    monkeypatch.setenv(KEPT, str(1000 / 2**30))
    with pytest.raises(InputError, match=rf"are to be packed in .*set XDG_CACHE_HOME .*or {KEPT}"):
        packed(halves[0], tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())
    monkeypatch.setenv(KEPT, "much")
    with pytest.raises(InputError, match=f"{KEPT} must be a number of GiB above 0, got 'much'"):
        packed(halves[0], place)


def test_files_that_are_gone_or_break_are_named(files: FileImages, tmp_path: Path) -> None:
    files.items[4].write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(BrokenImages, match=r"04\.jpeg"):
        packed(files, tmp_path / "packs").images(np.array([3, 4, 5]))
    files.items[7].unlink()
    with pytest.raises(BrokenImages, match=r"07\.jpeg"):
        packed(files, tmp_path / "packs")


def test_a_pack_that_was_cut_short_is_made_anew(files: FileImages, tmp_path: Path) -> None:
    place = tmp_path / "packs"
    packed(files, place)
    file = next(place.iterdir())
    file.write_bytes(file.read_bytes()[:-100])
    check_same(packed(files, place), files)


def test_what_a_killed_process_was_writing_goes_with_the_oldest(
    files: FileImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "packs"
    place.mkdir()
    (place / ".pack-cut").write_bytes(b"x" * 5000)
    os.utime(place / ".pack-cut", (1, 1))
    monkeypatch.setenv(KEPT, str((files.bytes_of(np.arange(30)) + 4000) / 2**30))
    check_same(packed(files, place), files)
    assert not (place / ".pack-cut").exists()


def test_keys_that_are_known_are_not_sought_again(
    files: FileImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keys = files.keys()
    monkeypatch.setattr(PackedImages, "batches", None)
    for memory in (0, 2**40):  # out of packs, and in memory
        monkeypatch.setattr("ray_synth.data.images.machine_memory", lambda memory=memory: memory)
        found = near(files)
        assert isinstance(found, ImageSet if memory else PackedImages)
        assert pickle.loads(pickle.dumps(found)).keys() == keys  # noqa: S301  # our own


def test_threads_read_while_packs_are_let_go(
    files: FileImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pack alone may stay open: others are opened again and again, and none is closed under who reads it."""
    monkeypatch.setattr(room, "_opened", functools.lru_cache(maxsize=1)(room._Opened))
    images, expected = packed(files, tmp_path / "packs"), files.images()
    before = len(os.listdir("/proc/self/fd"))
    rng = np.random.default_rng(0)
    with ThreadPoolExecutor(4) as pool:
        rows = [rng.permutation(30) for _ in range(12)]
        for asked, found in zip(rows, pool.map(images.images, rows), strict=True):
            assert np.array_equal(found, expected[asked])
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_pack_that_is_gone_is_said_and_made_anew(files: FileImages, tmp_path: Path) -> None:
    images = packed(files, tmp_path / "packs")
    images.images(slice(0, 1))
    assert isinstance(images, PackedImages)
    Path(images.packs[0]).unlink()
    assert images.images(slice(0, 8)).shape == (8, 24, 24, 3)  # it is still open
    room._opened.cache_clear()
    with pytest.raises(WorkError, match=r"a pack cannot be read: .*\.arrow.*; type the same command again"):
        images.images(slice(0, 1))
    assert np.array_equal(packed(files, tmp_path / "packs").images(), files.images())
