"""Images in files in, their fingerprints and keys out; a file is looked at once on a machine, while it stays as it is.

What was found is kept in parts, as soon as each is done: a run that is killed goes on, and the next one decodes
nothing. Parts are cut where names say so, not at numbers, so a file more or less, another order or another seed leaves
all parts but one as they are.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ray_synth.data.decoding import Seen
from ray_synth.data.decoding import look as look_at_heads
from ray_synth.data.leaks import DIGEST, Fingerprints
from ray_synth.data.listing import FileImages, Listing, of_parts
from ray_synth.data.opening import BrokenImages, Member
from ray_synth.data.source import KEY, ImageSource
from ray_synth.hardware.machine import cache_folder, usable_cpus
from ray_synth.kept import ENDING, Arrays, keep, recall, trim

PART = 512  # images of a part, on average
AT_ONCE = 4  # parts that are looked at at once
MANY = 20_000  # files whose heads are worth being kept
MAX_BYTES = 2 * 2**30  # of what is kept: 25 million images
PREFIX = "looks-1-"  # another number where something else is found

Through = Callable[[Callable[[ImageSource], Arrays], Sequence[ImageSource]], Iterator[Arrays]]
"""Calls a function of each source, wherever, and gives what it found in the order of the sources."""


def looks_folder() -> Path:
    """Where what was found lies, for all runs of this machine's user: XDG_CACHE_HOME/ray_synth/looks."""
    return cache_folder() / "ray_synth" / "looks"


def here(look: Callable[[ImageSource], Arrays], sources: Sequence[ImageSource]) -> Iterator[Arrays]:
    """In threads of this process: most of a look is outside Python's lock."""
    with ThreadPoolExecutor(min(AT_ONCE, usable_cpus())) as pool:
        yield from pool.map(look, sources)


def fingerprints_of(images: ImageSource, through: Through = here, folder: Path | None = None) -> Fingerprints:
    """As `Fingerprints.of`, keys and all; of files those alone are decoded that this machine's folder does not know.

    Raises:
        InputError: images that cannot be read, by their names.
    """
    if not isinstance(images, FileImages) or not images.in_files:
        return Fingerprints.of(images)
    folder = folder or looks_folder()
    parts, files = _parts(images, folder)
    found = {at: known for at, file in enumerate(files) if (known := recall(file)) is not None}
    missing = [at for at in range(len(parts)) if at not in found]
    try:
        for at, looked in zip(missing, through(look, [images.take(parts[at]) for at in missing]), strict=True):
            found[at] = looked
            keep(files[at], looked)
    except BrokenImages as error:  # all are said at once, not one a start
        raise BrokenImages([*error.found, *images.broken()]) from None
    finally:
        if missing:
            trim(folder, PREFIX, MAX_BYTES)
    order, several = np.concatenate(parts), [found[at] for at in range(len(parts))]
    digests, hashes, keys = (_placed([each[name] for each in several], order) for name in ("digests", "hashes", "keys"))
    images.keep_keys(keys.view(KEY).reshape(-1))
    return Fingerprints(names=images.sources, digests=digests.view(DIGEST).reshape(-1), hashes=hashes)


def seen_in(listing: Listing, folder: Path | None = None) -> Seen | None:
    """What the heads of many files say (`decoding.look`), of which those alone are opened that this machine's folder
    does not know; None of few, or of what lies in no file: they are soon looked at."""
    items = listing.full_items()
    if len(items) < MANY or not isinstance(items[0], str | Member):
        return None
    folder = folder or looks_folder()
    images = FileImages(
        items=items,
        labels=listing.labels,
        class_names=listing.class_names,
        sources=listing.names,
        shape=(0, 0, 0),  # not known yet
        crop=False,
    )
    parts, files = _parts(images, folder)
    several, opened = list[Seen](), False
    for file, rows in zip(files, parts, strict=True):
        kept = recall(file)
        if kept is None:
            try:
                seen, opened = look_at_heads(items[rows], listing.names[rows]), True
            except BrokenImages:
                return None  # a look at all says all that are broken
            keep(file, {"seen": np.frombuffer(json.dumps(seen.to_dict()).encode(), dtype=np.uint8)})
        else:
            seen = Seen.from_dict(json.loads(kept["seen"].tobytes()))
        several.append(seen)
    if opened:
        trim(folder, PREFIX, MAX_BYTES)
    return Seen.joined(several)


def look(images: ImageSource) -> Arrays:
    """Of each image, uint8: digests [N,16], hashes [N,B] and keys [N,24]."""
    found = Fingerprints.of(images)
    return {
        "digests": found.digests.view(np.uint8).reshape(len(images), -1),
        "hashes": found.hashes,
        "keys": images.held_keys().view(np.uint8).reshape(len(images), -1),
    }


def _parts(images: FileImages, folder: Path) -> tuple[list[np.ndarray], list[Path]]:
    """Rows of each part, by name, and the file that is kept of it."""
    names = np.array([images.name(row) for row in range(len(images))], dtype=object)
    order = np.argsort(names, kind="stable")
    begins = [at for at, name in enumerate(names[order]) if at and not zlib.crc32(_bytes(name)) % PART]
    parts = np.split(order, begins)
    return parts, [folder / name for name in of_parts(lambda rows: _name(images, rows), parts)]


def _name(images: FileImages, rows: np.ndarray) -> str:
    """By all that what is found follows from."""
    import PIL

    how = (PIL.__version__, images.shape, images.crop, images.draft, images.depth)
    classes = [images.class_names[label] for label in images.labels[rows]]
    said = "\0".join([repr(how), *classes, *images.stamps(rows)])
    return f"{PREFIX}{hashlib.sha256(_bytes(said)).hexdigest()[:32]}{ENDING}"


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _placed(parts: Sequence[np.ndarray], order: np.ndarray) -> np.ndarray:
    """Rows of parts, each in its place."""
    joined = np.concatenate(parts)
    out = np.empty_like(joined)
    out[order] = joined
    return out
