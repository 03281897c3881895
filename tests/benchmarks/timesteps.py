"""Real digits in, accuracy and recall of each class over the ratio out, for samples of four diffusion time steps.

    python -m tests.benchmarks.timesteps [--seeds N] [--plot FILE]

Shidani et al., 2025, sections 4 (Figure 2b) and I.2: there a generator's distance is set by the time step at which its
denoising stops, 50, 150 and 300 of 600, and curves are also drawn for each class. A perfect diffusion model that stops
at step t samples the law of the data noised to t, so other real digits, noised as its forward process does, stand for
it: no network is trained, and the step is the only thing that differs. Step 0 is as good as real.

100 real digits, ratios 0 to 8 of other ones, tested on 800 more; an MLP of 64 hidden units, 600 updates at every ratio.
A seed draws the digits, the noise, the weights and the batches, the same for all steps.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from ray_synth.bound.proxies import feature_discrepancies
from ray_synth.metrics.spectrum import rapsd, rapsd_distance
from tests.benchmarks.beyond_real_data import Claim, print_claims

matplotlib.use("Agg")
from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

STEPS, TRAINED_STEPS = (0, 50, 150, 300), 600
RATIOS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
REAL, TEST, CLASSES = 100, 800, 10
UPDATES, BATCH = 600, 32
COLORS = ("#2f6fb2", "#3a8f5c", "#d9822b", "#b3372f")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """recall: [seeds, STEPS, RATIOS, CLASSES]; distances: by name, [seeds, STEPS]; of_class: W₂² of each class."""

    recall: FloatArray
    distances: dict[str, FloatArray]
    of_class: FloatArray

    @property
    def accuracy(self) -> FloatArray:
        """Classes are of one size, so the mean of their recalls: [seeds, STEPS, RATIOS]."""
        mean: FloatArray = self.recall.mean(axis=3)
        return mean


def noised(images: FloatArray, step: int, rng: np.random.Generator) -> FloatArray:
    """x_t = √ᾱ_t·x + √(1 − ᾱ_t)·ε, linear noise schedule of 600 steps (Ho et al., 2020). Pixels in [-1, 1]."""
    kept = float(np.prod(1 - np.linspace(1e-4, 0.02, TRAINED_STEPS)[:step]))
    noise = rng.normal(size=images.shape)
    return np.clip(np.sqrt(kept) * images + np.sqrt(1 - kept) * noise, -1, 1)


def drawn(seed: int) -> tuple[dict[str, tuple[FloatArray, NDArray[np.int64]]], np.random.Generator]:
    """Disjoint real, pool and test digits; real and pool with classes in turn, so that prefixes are balanced."""
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    rank = np.zeros(len(images), dtype=np.int64)
    for label in range(CLASSES):
        rank[labels[order] == label] = np.arange((labels == label).sum())
    order = order[np.lexsort((labels[order], rank))]
    x, y = images[order] / 8.0 - 1, labels[order].astype(np.int64)
    cuts = {"real": slice(0, REAL), "pool": slice(REAL, REAL + round(REAL * max(RATIOS))), "test": slice(-TEST, None)}
    return {name: (x[part], y[part]) for name, part in cuts.items()}, rng


def recalls(x: FloatArray, y: NDArray[np.int64], test: tuple[FloatArray, NDArray[np.int64]], seed: int) -> FloatArray:
    """Of each class, by a network that is trained for the same number of updates whatever the number of images."""
    network = MLPClassifier(64, batch_size=BATCH, max_iter=max(1, round(UPDATES * BATCH / len(x))), random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        right = network.fit(x, y).predict(test[0]) == test[1]
    return np.array([right[test[1] == label].mean() for label in range(CLASSES)])


def measure(seeds: int) -> Measured:
    shape = (seeds, len(STEPS))
    recall = np.empty((*shape, len(RATIOS), CLASSES))
    of_class = np.empty((*shape, CLASSES))
    distances = {name: np.empty(shape) for name in ("RAPSD", "FID", "W2", "MMD")}
    for seed in range(seeds):
        sets, rng = drawn(seed)
        (real, y), (pool, y_pool) = sets["real"], sets["pool"]
        noise_seed = int(rng.integers(2**31))
        for i, step in enumerate(STEPS):
            synthetic = noised(pool, step, np.random.default_rng(noise_seed))
            found = feature_discrepancies(real, synthetic)
            spectra = (rapsd(each.reshape(-1, 8, 8) / 2 + 0.5) for each in (real, synthetic))
            found["RAPSD"] = rapsd_distance(*spectra)
            for name, value in found.items():
                distances[name][seed, i] = value
            for label in range(CLASSES):
                parts = feature_discrepancies(real[y == label], synthetic[y_pool == label])
                of_class[seed, i, label] = parts["W2"]
            for j, ratio in enumerate(RATIOS):
                count = round(ratio * REAL)
                x = np.concatenate([real, synthetic[:count]])
                recall[seed, i, j] = recalls(x, np.concatenate([y, y_pool[:count]]), sets["test"], seed)
        print(f"seed {seed}", flush=True)
    return Measured(recall=recall, distances=distances, of_class=of_class)


def claims(found: Measured) -> list[Claim]:
    accuracy, recall = found.accuracy.mean(axis=0), found.recall.mean(axis=0)
    best = [RATIOS[i] for i in accuracy.argmax(axis=1)]
    falls = accuracy.max(axis=1) - accuracy[:, -1]
    gains = accuracy[:, -1] - accuracy[:, 0]
    steps = {name: values.mean(axis=0) for name, values in found.distances.items()}
    gain_of_class = recall[:, -1] - recall[:, 0]  # [STEPS, CLASSES]
    spread = found.recall.std(axis=0).mean() / found.accuracy.std(axis=0).mean()
    tops = [sorted({RATIOS[i] for i in recall[s].argmax(axis=0)}) for s in range(len(STEPS))]
    rank = [float(spearmanr(found.of_class.mean(axis=0)[s], gain_of_class[s]).statistic) for s in range(len(STEPS))]
    together = (gain_of_class[1:] < gain_of_class[:-1]).mean()
    return [
        Claim(
            source="4, time steps",
            text="samples of a noisier time step are farther from the real images, by every distance",
            holds=all(bool((np.diff(values) > 0).all()) for values in steps.values()),
            evidence="; ".join(f"{name} " + ", ".join(f"{v:.3g}" for v in values) for name, values in steps.items()),
        ),
        Claim(
            source="4, I.2",
            text="the best ratio does not rise with the distance",
            holds=bool((np.diff(best) <= 0).all() and best[-1] < best[0]),
            evidence=f"best ratio by step: {', '.join(f'{value:g}' for value in best)}",
        ),
        Claim(
            source="4, Figure 2b",
            text="the U persists and is sharper at a larger distance (what ratio 8 loses against the best rises)",
            holds=bool((np.diff(falls) >= 0).all() and falls[-1] > 0.005),
            evidence=f"lost by step: {', '.join(f'{value:.4f}' for value in falls)}",
        ),
        Claim(
            source="I.2, Figure 7",
            text="a near generator gains with more images, a far one less, nothing, or it loses",
            holds=bool(gains[0] > 0.01 and (np.diff(gains) <= 0).all()),
            evidence=f"gain at ratio 8 by step: {', '.join(f'{value:+.4f}' for value in gains)}",
        ),
        Claim(
            source="I.2, class level",
            text="the same trend at the class level (a class gains less at the noisier of two steps in 80 % of cases)",
            holds=bool(together >= 0.8),
            evidence=f"{together:.0%} of {gain_of_class[1:].size} pairs; best ratios of classes by step: "
            + "; ".join(", ".join(f"{ratio:g}" for ratio in each) for each in tops),
        ),
        Claim(
            source="I.2, class level",
            text="class-level curves are noisier (deviation over seeds at least twice that of all classes)",
            holds=bool(spread >= 2),
            evidence=f"{spread:.2f} times",
        ),
        Claim(
            source="I.2, class level",
            text="classes differ in fidelity, and that is what their gains follow (rank correlation at most -0.5)",
            holds=all(value <= -0.5 for value in rank[1:]),
            evidence=f"of W₂ and gain at ratio 8, by step: {', '.join(f'{value:+.2f}' for value in rank)}",
        ),
    ]


def draw(found: Measured, path: Path) -> None:
    """All classes together, with standard errors, then each step's classes."""
    figure = Figure(figsize=(15, 3.6), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(STEPS))
    ticks = np.log2(1 + np.asarray(RATIOS))
    mean, error = found.accuracy.mean(axis=0), found.accuracy.std(axis=0, ddof=1) / np.sqrt(len(found.recall))
    for i, (step, color) in enumerate(zip(STEPS, COLORS, strict=True)):
        first.errorbar(ticks, mean[i], yerr=error[i], fmt="o-", ms=4, capsize=2, color=color, label=f"step {step}")
        others[i].plot(ticks, found.recall[:, i].mean(axis=0), color=color, lw=0.9, alpha=0.7)
        others[i].plot(ticks, mean[i], color="#22252b", lw=2)
        others[i].set_title(f"each class, step {step}")
        others[i].sharey(others[0])
    first.set_title("all classes")
    first.set_ylabel("test accuracy (recall)")
    first.legend(frameon=False, fontsize=8)
    for axes in (first, *others):
        axes.set_xticks(ticks, [f"{ratio:g}" if ratio >= 0.5 or ratio == 0 else "" for ratio in RATIOS])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    figure.supxlabel("synthetic images per real image", fontsize=10)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="at least 2")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    options = parser.parse_args()
    found = measure(max(2, options.seeds))
    mean, error = found.accuracy.mean(axis=0), found.accuracy.std(axis=0, ddof=1) / np.sqrt(len(found.recall))
    print("test accuracy in %, mean ± standard error; ratios " + ", ".join(f"{ratio:g}" for ratio in RATIOS))
    for step, means, errors in zip(STEPS, 100 * mean, 100 * error, strict=True):
        print(f"step {step:3}  " + "  ".join(f"{m:.1f} ± {e:.1f}" for m, e in zip(means, errors, strict=True)))
    print_claims(claims(found))
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    main()
