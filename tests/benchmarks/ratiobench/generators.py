"""A pool of real images in, synthetic images of known worth out: from as good as real to harmful.

Every generator is `(pool images [N,H,W,C] uint8, labels [N], count per class, rng) -> (images, labels)`, by class in
order, so that the first images of a class are a prefix. The pool is disjoint from a cell's real training images.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

Labelled = tuple[np.ndarray, np.ndarray]
PerClass = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def by_class(make: PerClass) -> Callable[[np.ndarray, np.ndarray, int, np.random.Generator], Labelled]:
    """Lift a sampler of one class's images [n,H,W,C] float -> [count,H,W,C] to all classes."""

    def generator(images: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator) -> Labelled:
        classes = np.unique(labels)
        made = [make(images[labels == c].astype(np.float64), count, rng) for c in classes]
        pixels = np.clip(np.round(np.concatenate(made)), 0, 255).astype(np.uint8)
        return pixels, np.repeat(classes, count)

    return generator


def real(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    order = np.concatenate([rng.permutation(len(x)) for _ in range(-(-count // len(x)))])
    return x[order[:count]]


def gaussian(rank: int) -> PerClass:
    """The class's mean and its leading principal directions."""

    def make(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        flat = x.reshape(len(x), -1)
        mean = flat.mean(axis=0)
        _, s, v = np.linalg.svd(flat - mean, full_matrices=False)
        v *= np.sign(v[np.arange(len(v)), np.abs(v).argmax(axis=1)])[:, None]  # the same on every machine
        r = min(rank, len(s))
        z = rng.normal(size=(count, r)) * s[:r] / np.sqrt(max(len(x) - 1, 1))
        return (mean + z @ v[:r]).reshape(count, *x.shape[1:])

    return make


def smote(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """A random point between an image and one of its five nearest of the class (Chawla et al., 2002)."""
    flat = x.reshape(len(x), -1)
    squared = ((flat**2).sum(1)[:, None] + (flat**2).sum(1)[None] - 2 * flat @ flat.T).astype(np.float64)
    np.fill_diagonal(squared, np.inf)
    near = np.argsort(squared, axis=1)[:, : max(1, min(5, len(x) - 1))]
    i = rng.integers(len(x), size=count)
    j = near[i, rng.integers(near.shape[1], size=count)]
    t = rng.uniform(size=(count, 1))
    return (flat[i] * (1 - t) + flat[j] * t).reshape(count, *x.shape[1:])


def blends(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Means of three images of the class, drawn again each time."""
    return x[rng.integers(len(x), size=(count, 3))].mean(axis=1)


def collapsed(modes: int) -> PerClass:
    """A few images of the class, over and over, with a little noise."""

    def make(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        kept = x[rng.choice(len(x), size=min(modes, len(x)), replace=False)]
        return kept[rng.integers(len(kept), size=count)] + rng.normal(0, 8, (count, *x.shape[1:]))

    return make


def blurred(sigma: float) -> PerClass:
    def make(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        width = sigma * x.shape[1] / 8
        return np.stack([gaussian_filter(image, (width, width, 0)) for image in real(x, count, rng)])

    return make


def noisy(level: float) -> PerClass:
    def make(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        return real(x, count, rng) + rng.normal(0, level, (count, *x.shape[1:]))

    return make


def shifted(share: float) -> PerClass:
    """Every image moved sideways by a share of its width."""

    def make(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        return np.roll(real(x, count, rng), max(1, round(share * x.shape[2])), axis=2)

    return make


def negative(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return 255 - real(x, count, rng)


def wrong_labels(rate: float) -> Callable[[np.ndarray, np.ndarray, int, np.random.Generator], Labelled]:
    """Real images, a share of them under a uniformly drawn other class."""

    def generator(images: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator) -> Labelled:
        classes = np.unique(labels)
        out = []
        for c in classes:
            mistaken = rng.uniform(size=count) < rate
            others = rng.choice(classes[classes != c], size=count)
            x = {k: real(images[labels == k], count, rng) for k in np.unique(np.append(others, c))}
            out += [x[others[i] if mistaken[i] else c][i] for i in range(count)]
        return np.stack(out), np.repeat(classes, count)

    return generator


GENERATORS = {
    "real": by_class(real),
    "gaussian-5": by_class(gaussian(5)),
    "gaussian-20": by_class(gaussian(20)),
    "smote": by_class(smote),
    "blends": by_class(blends),
    "collapsed-3": by_class(collapsed(3)),
    "collapsed-10": by_class(collapsed(10)),
    "blurred": by_class(blurred(1.0)),
    "noisy": by_class(noisy(60.0)),
    "shifted": by_class(shifted(0.13)),
    "negative": by_class(negative),
    "labels-20": wrong_labels(0.2),
    "labels-50": wrong_labels(0.5),
    "labels-80": wrong_labels(0.8),
}


def generator_of(name: str) -> Callable[[np.ndarray, np.ndarray, int, np.random.Generator], Labelled]:
    """By name; "diffusion-STEPS-VARIANCE" is a small diffusion model, trained so long, with noise on its samples."""
    if name in GENERATORS:
        return GENERATORS[name]
    from tests.benchmarks.ratiobench.diffusion import diffusion

    _, steps, variance = name.split("-")
    return diffusion(int(steps), float(variance))
