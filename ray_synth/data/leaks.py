"""Image sets that must share no image in; the pairs that they share, and those that nearly are one image, out."""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ray_synth.data.decoding import LUMA
from ray_synth.data.source import BATCH, KEY, ImageSource, Rows, keys_of
from ray_synth.errors import InputError

LISTED = 10
DIGEST = np.dtype("V16")
SIDE = 32  # pixels a side that a hash looks at
WAVES = 16  # lowest frequencies a side: 255 bits
CLOSE = 0.05  # share of a hash's bits that a sure copy may differ by
FALSE_ALARMS = 0.01  # of neighbours within one set that the threshold may take for near copies
CALIBRATION = 4000  # images whose neighbours set the threshold
BLOCK = 4096  # images that are hashed at once
QUERIES = 16  # images that are looked up at once
REFERENCES = 2**14  # among so many: their distances fit a core's cache
MOST_PAIRS = 5 * 10**8  # of two sets' images that are compared: of more, some of the smaller set are looked up
LEAST_ASKED = 5000  # of them


@dataclass(frozen=True, kw_only=True, eq=False)
class Fingerprints:
    """What a set is compared by. names: [N], for messages, else places in the set; digests: [N] of DIGEST, of the
    pixels; hashes: uint8 [N,B], which differ in few bits where images look alike."""

    names: Sequence[str] | np.ndarray | None
    digests: np.ndarray
    hashes: np.ndarray

    def __len__(self) -> int:
        return len(self.digests)

    def name(self, row: int) -> str:
        return str(row if self.names is None else self.names[row])

    @classmethod
    def of(cls, images: ImageSource) -> Fingerprints:
        """In one pass, which finds the images' keys too."""
        parts, keys = [cls.of_pixels(images.images(slice(0)), [])], [np.zeros(0, KEY)]
        for start in range(0, len(images), BATCH):
            piece = slice(start, start + BATCH)
            pixels = images.images(piece)
            parts.append(cls.of_pixels(pixels, []))
            keys.append(keys_of(pixels, images.labels[piece], images.class_names))
        images.keep_keys(np.concatenate(keys))
        return replace(cls.joined(parts), names=images.sources)

    @classmethod
    def of_pixels(cls, images: np.ndarray, names: Sequence[str]) -> Fingerprints:
        """images: uint8 [N,H,W,C]."""
        return cls(names=names, digests=digests_of(images), hashes=image_hashes(images))

    def take(self, rows: Rows) -> Fingerprints:
        return Fingerprints(
            names=None if self.names is None else np.asarray(self.names, dtype=object)[rows],
            digests=self.digests[rows],
            hashes=self.hashes[rows],
        )

    @classmethod
    def joined(cls, several: Sequence[Fingerprints]) -> Fingerprints:
        return cls(
            names=[name for prints in several for name in prints.names or ()],
            digests=np.concatenate([prints.digests for prints in several]),
            hashes=np.concatenate([prints.hashes for prints in several]),
        )


def digests_of(images: np.ndarray) -> np.ndarray:
    """Of the pixels and the shape of each image. uint8 [N,H,W,C] -> [N] of DIGEST"""
    shape = str(images.shape[1:]).encode()
    found = [hashlib.blake2b(shape + image.tobytes(), digest_size=DIGEST.itemsize).digest() for image in images]
    return np.frombuffer(b"".join(found), dtype=DIGEST)


@dataclass(frozen=True, kw_only=True, order=True)
class Pair:
    """Two images of two sets. distance: bits in which their hashes differ."""

    distance: int
    first: str
    first_row: int
    second: str
    second_row: int


def rows_without_leaks(sets: Mapping[str, Fingerprints], on_leak: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """The rows of each set whose image no later set holds (test comes last), and notes of what was taken away.

    Raises:
        InputError: there are such images, and on_leak is `refuse`.
    """
    rows = {name: np.arange(len(fingerprints)) for name, fingerprints in sets.items()}
    pairs = identical_pairs(sets)
    if not pairs:
        return rows, []
    if on_leak == "refuse":
        raise InputError(
            f"{leak_said(pairs, sets)}; remove one of each, or type --set data.on_leak=drop to take the copies from "
            "the training side"
        )
    lost: dict[str, set[int]] = defaultdict(set)
    for pair in pairs:  # the row of the earlier set comes first in a pair
        lost[pair.first].add(pair.first_row)
    taken = ", ".join(f"{len(lost[name])} from {name}" for name in sets if lost[name])
    kept = {name: np.setdiff1d(rows[name], sorted(lost[name])) for name in sets}
    return kept, [f"taken away: {taken}; {leak_said(pairs, sets)}"]


def copies_among(
    digests: np.ndarray,
    labels: np.ndarray,
    named: Callable[[int], str],
    *,
    on_leak: str = "refuse",
    cure: str = "remove the wrong one",
) -> tuple[np.ndarray, list[str]]:
    """Rows of one set to leave out, so that one of each image stays, and notes that count them.

    A copy under another class is refused; with on_leak `drop`, all of that image go, as nobody knows its class.

    Args:
        digests, labels: [N], of the pixels (DIGEST) and the classes.
        named: a row -> what messages call the image, and its class.

    Raises:
        InputError: an image stands under two classes, and on_leak is `refuse`.
    """
    lost: list[int] = []
    disputed: list[tuple[int, int]] = []
    contradictory = 0
    for found in map(np.ndarray.tolist, _equal(digests)):
        other = next((row for row in found if labels[row] != labels[found[0]]), None)
        lost += found[1:] if other is None else found
        if other is not None:
            disputed.append((found[0], other))
            contradictory += len(found)
    if disputed and on_leak == "refuse":
        (first, other), *more = disputed
        as_well = f" ({len(more)} more image(s) stand under two classes)" if more else ""
        if (digests == digests[0]).all():
            as_well = f", and so have all {len(digests)}: one image, such as a colour"
        raise InputError(f"images {named(first)} and {named(other)} have identical pixels{as_well}; {cure}")
    counts = {
        "identical pixels stand in the same class already": len(lost) - contradictory,
        "identical pixels stand in another class too": contradictory,
    }
    return np.asarray(sorted(lost), dtype=np.int64), [
        f"{count} image(s) left out: {why}" for why, count in counts.items() if count
    ]


def refuse_judged(synthetic: Fingerprints, judged: Mapping[str, Fingerprints]) -> list[str]:
    """Raise InputError where a synthetic image is one that the classifier is judged on; notes of near copies."""
    sets = {"synthetic": synthetic, **judged}
    between = [("synthetic", name) for name in judged]
    pairs = [pair for pair in identical_pairs(sets) if pair.first == "synthetic"]
    if pairs:
        raise InputError(f"{leak_said(pairs, sets)}; remove these synthetic images from generator.path")
    return near_notes(sets, between)


def identical_pairs(sets: Mapping[str, Fingerprints]) -> list[Pair]:
    """Pairs of images with equal pixels in two different sets, in the order of sets and rows."""
    if not sets:
        return []
    ends = np.cumsum([len(fingerprints) for fingerprints in sets.values()])
    named, starts = list(sets), [0, *ends.tolist()]
    pairs = []
    for found in _equal(np.concatenate([fingerprints.digests for fingerprints in sets.values()])):
        places = [
            (int(at), int(row) - starts[at])
            for at, row in zip(np.searchsorted(ends, found, "right"), found, strict=True)
        ]
        pairs += [
            Pair(distance=0, first=named[a], first_row=i, second=named[b], second_row=j)
            for (a, i), (b, j) in itertools.combinations(places, 2)
            if a != b
        ]
    return pairs


def _equal(digests: np.ndarray) -> list[np.ndarray]:
    """Rows of one digest, rising, of each that stands more than once; by the first of them. [N] of DIGEST -> lists"""
    halves = np.ascontiguousarray(digests).view(np.uint64).reshape(-1, 2)
    order = np.lexsort(halves.T)
    same = (halves[order[1:]] == halves[order[:-1]]).all(axis=1)  # as the one before
    begins = np.flatnonzero(same & ~np.r_[False, same[:-1]])
    ends = np.flatnonzero(same & ~np.r_[same[1:], False]) + 2
    return sorted((order[begin:end] for begin, end in zip(begins, ends, strict=True)), key=lambda rows: int(rows[0]))


def near_pairs(
    sets: Mapping[str, Fingerprints], between: Sequence[tuple[str, str]] | None = None
) -> tuple[list[Pair], int]:
    """Images that are nearer to one of another set than neighbours within a set are, and how many chance may bring.

    For two sets, each image of the smaller one is looked up in the larger one, or some (`looked_up`). The threshold is
    the largest number of bits under which at most FALSE_ALARMS of the larger set's own images find another one of it:
    what a set of that density has by chance. So up to that share of honest images is found too. Equal pixels are not
    reported again.
    """
    thresholds: dict[str, int] = {}
    pairs: list[Pair] = []
    compared = 0
    for one, other in between or list(itertools.combinations(sets, 2)):
        small, large = (one, other) if len(sets[one]) <= len(sets[other]) else (other, one)
        asked = looked_up(len(sets[small]), len(sets[large]))
        if not len(asked):
            continue
        if large not in thresholds:
            thresholds[large] = near_threshold(sets[large].hashes)
        compared += len(asked)
        distance, neighbour = _nearest(sets[small].hashes[asked], sets[large].hashes)
        for place in np.flatnonzero(distance <= thresholds[large]).tolist():
            rows = {small: int(asked[place]), large: int(neighbour[place])}
            if sets[one].digests[rows[one]] != sets[other].digests[rows[other]]:
                pairs.append(
                    Pair(
                        distance=int(distance[place]),
                        first=one,
                        first_row=rows[one],
                        second=other,
                        second_row=rows[other],
                    )
                )
    return sorted(pairs), round(FALSE_ALARMS * compared)


def looked_up(small: int, large: int) -> np.ndarray:
    """Which of a smaller set's images are looked up in a larger one: all, or so many at even distances that MOST_PAIRS
    are compared, but LEAST_ASKED at least: the cost grows as the larger set does, not as its square."""
    most = max(LEAST_ASKED, MOST_PAIRS // max(large, 1))
    return np.arange(small) if small <= most else np.linspace(0, small - 1, most).astype(np.int64)


def near_notes(sets: Mapping[str, Fingerprints], between: Sequence[tuple[str, str]] | None = None) -> list[str]:
    """A warning that names the nearest pairs; none where they are as many as chance brings and none is close. And of
    which sets only some images were looked up."""
    notes = []
    for pair in between or list(itertools.combinations(sets, 2)):
        small, large = sorted(pair, key=lambda name: len(sets[name]))
        asked = len(looked_up(len(sets[small]), len(sets[large])))
        if asked < len(sets[small]):
            notes.append(
                f"near copies in {large}, of {len(sets[large]):,} images, were looked for of {asked:,} of "
                f"{len(sets[small]):,} images of {small}; exact ones of all"
            )
    pairs, by_chance = near_pairs(sets, between)
    bits = 8 * max((fingerprints.hashes.shape[1] for fingerprints in sets.values()), default=0)
    if not pairs or (len(pairs) <= by_chance and pairs[0].distance > CLOSE * bits):
        return notes
    return [
        f"{len(pairs)} pair(s) of images in sets that must be disjoint look nearly identical (chance brings up to "
        f"{by_chance}); nearest: {_named(pairs, sets, 3, '~')}",
        *notes,
    ]


def near_threshold(hashes: np.ndarray) -> int:
    """The largest distance that at most FALSE_ALARMS of the images keep to their nearest neighbour; -1 if none."""
    if len(hashes) < 2:
        return -1
    asked = np.arange(0, len(hashes), max(1, len(hashes) // CALIBRATION))
    distance, _ = _nearest(hashes[asked], hashes, but=asked)
    return int(np.sort(distance)[int(FALSE_ALARMS * len(asked))]) - 1


def image_hashes(images: np.ndarray) -> np.ndarray:
    """Perceptual hashes: which of the lowest cosine waves of the grey image are above their median, as packed bits.

    uint8 [N,H,W,C] -> uint8 [N,B], B a multiple of 8. Recompression, slight noise and rescaling change few bits.
    """
    from scipy.fft import dctn

    packed = [np.empty((0, _hash_bytes(images.shape)), dtype=np.uint8)]
    for start in range(0, len(images), BLOCK):
        waves = dctn(_small_grey(images[start : start + BLOCK]), axes=(1, 2), norm="ortho")[:, :WAVES, :WAVES]
        flat = waves.reshape(len(waves), -1)[:, 1:]  # without the mean
        above = np.zeros((len(flat), 8 * packed[0].shape[1]), dtype=bool)
        above[:, : flat.shape[1]] = flat > np.median(flat, axis=1, keepdims=True)
        packed.append(np.packbits(above, axis=1))
    return np.concatenate(packed)


def _hash_bytes(shape: Sequence[int]) -> int:
    bits = min(shape[1], WAVES) * min(shape[2], WAVES) - 1
    return 8 * max(1, -(-bits // 64))


def _small_grey(images: np.ndarray) -> np.ndarray:
    """[n,H,W,C] -> float [n,h,w], at most SIDE pixels a side, each the mean of an area."""
    from PIL import Image

    height, width = images.shape[1:3]
    if max(height, width) <= SIDE:
        return (images[..., 0] if images.shape[3] == 1 else images @ LUMA).astype(np.float32)
    size = (min(width, SIDE), min(height, SIDE))
    plain = [image[..., 0] if image.shape[2] == 1 else image for image in images]
    grey = [Image.fromarray(image).convert("L").resize(size, Image.Resampling.BOX) for image in plain]
    return np.stack([np.asarray(image, dtype=np.float32) for image in grey])


def _nearest(
    queries: np.ndarray, references: np.ndarray, but: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Hamming distance and row of the nearest reference, except row `but[i]` for query i. [n,B], [m,B] -> [n] twice

    Plain popcounts over blocks that fit the cache: on busy cores, faiss's threads were ten times slower than this.
    """
    words = np.ascontiguousarray(references.view(np.uint64).T)  # [B/8, m]
    asked = np.ascontiguousarray(queries).view(np.uint64)
    none = np.iinfo(np.uint16).max
    nearest, rows = np.full(len(asked), none, dtype=np.int64), np.zeros(len(asked), dtype=np.int64)
    for start, begin in itertools.product(range(0, len(asked), QUERIES), range(0, words.shape[1], REFERENCES)):
        block, among = asked[start : start + QUERIES], words[:, begin : begin + REFERENCES]
        distance = np.zeros((len(block), among.shape[1]), dtype=np.uint16)
        for i, word in enumerate(among):
            distance += np.bitwise_count(block[:, i, None] ^ word)
        each = np.arange(len(block))
        if but is not None:
            own = but[start : start + QUERIES] - begin
            here = (own >= 0) & (own < among.shape[1])
            distance[each[here], own[here]] = none
        best = distance.argmin(axis=1)
        nearer = np.flatnonzero(distance[each, best] < nearest[start : start + QUERIES])
        nearest[start + nearer], rows[start + nearer] = distance[nearer, best[nearer]], begin + best[nearer]
    return nearest, rows


def leak_said(pairs: Sequence[Pair], sets: Mapping[str, Fingerprints]) -> str:
    """How many images stand in two sets, and the first of them by name."""
    pixels = {sets[pair.first].digests[pair.first_row].tobytes() for pair in pairs}
    return (
        f"{len(pixels)} image(s) stand in two sets that must be disjoint, in {len(pairs)} pair(s) with identical "
        f"pixels: {_named(pairs, sets, LISTED, '=')}"
    )


def _named(pairs: Sequence[Pair], sets: Mapping[str, Fingerprints], limit: int, sign: str) -> str:
    """The first pairs by the names of their images."""
    shown = [
        f"{pair.first} {sets[pair.first].name(pair.first_row)} {sign} "
        f"{pair.second} {sets[pair.second].name(pair.second_row)}"
        for pair in pairs[:limit]
    ]
    return ", ".join(shown) + (f" and {len(pairs) - limit} more" if len(pairs) > limit else "")
