"""Digits in, what classifiers of real and of synthetic images leak about them out (Carlini et al., 2022).

    python -m tests.benchmarks.lira demo [--seeds 0 1 2] [--logits FOLDER] [--picture FILE]
    python -m tests.benchmarks.lira memorised
    python -m tests.benchmarks.lira together

demo: the demo's own ten images a class; 16 shadow models, each of a half of them, and 16 of as many synthetic images,
each made by a diffusion model that was trained on such a half alone (half as wide as the demo's, 200 steps).
memorised: 400 digits, 200 in each model, with their own labels and with labels drawn at random, which can only be
learnt by heart. together: seconds of 16 trainings at once against one after the other.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from ray_synth.classifier import together
from ray_synth.classifier.together import fit_each
from ray_synth.config import Classifier, Experiment, Lira, load_experiment
from ray_synth.data.images import ImageSet
from ray_synth.data.readers import read_digits
from ray_synth.data.source import ImageSource
from ray_synth.data.splits import read_splits
from ray_synth.evaluators.lira import attacked, leaked
from ray_synth.evaluators.shadows import Recipe, halves, shadow_logits
from ray_synth.generator import generator_of
from ray_synth.metrics.membership import Roc, logit_confidence
from tests.conftest import DIGITS

SHADOWS = 16
SMALLER = {"generator.block_out_channels": [16, 32], "generator.steps": 200}
MODES = {
    "online": Lira(),
    "online, fixed variance": Lira(fixed_variance=True),
    "offline": Lira(mode="offline"),
    "offline, fixed variance": Lira(mode="offline", fixed_variance=True),
}
# Without a validation set's choice among its weights, and without decay: what it saw is learnt by heart.
BY_HEART = Classifier(updates=600, keep="last", evaluations=1, weight_decay=0.0)


def recipe_of(e: Experiment, train: ImageSource, validation: ImageSource) -> Recipe:
    generator = generator_of(e.generator, e.generate, class_names=train.class_names, shape=train.shape)
    return Recipe(lira=Lira(shadows=SHADOWS), classifier=e.classifier, validation=validation, generator=generator)


def said(logits: np.ndarray, labels: np.ndarray, inside: np.ndarray, lira: Lira) -> dict[str, float]:
    return dict(leaked(logits, labels, inside, lira))


def row(found: dict[str, float]) -> str:
    low, high = found["tpr_at_1_percent/low"], found["tpr_at_1_percent/high"]
    at_1 = f"{found['tpr_at_1_percent']:.3f} ({low:.3f} to {high:.3f})"
    at_tenth = f"{found['tpr_at_0.1_percent']:.3f}" if "tpr_at_0.1_percent" in found else "-"
    return f"AUC {found['auc']:.3f} ± {found['auc/std']:.3f}, TPR at 1 % {at_1}, at .1 % {at_tenth}"


def demo(seeds: list[int], kept: Path | None, picture: Path | None) -> None:
    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in seeds:
        e = load_experiment(DIGITS, {**SMALLER, "seed": seed})
        splits = read_splits(e.data, e.seed)
        recipe, pool = recipe_of(e, splits.train, splits.validation), splits.train
        inside = halves(pool.labels, SHADOWS, seed)
        for on in recipe.trained_on:
            begin, file = time.monotonic(), kept and kept / f"{on}-{seed}.npy"
            if file is not None and file.exists():
                logits = np.load(file)
            else:
                logits = shadow_logits(pool, recipe, inside, on, seed)
                print(f"seed {seed}, {on}: {SHADOWS} shadow models in {time.monotonic() - begin:.0f} s", flush=True)
                if file is not None:
                    np.save(file, logits)
            for name, lira in MODES.items():
                found = said(logits, pool.labels, inside, lira)
                rows.setdefault((on, name), []).append(found)
                print(f"seed {seed}, {on}, {name}: accuracy {found['accuracy']:.3f}, {row(found)}", flush=True)
            print(f"seed {seed}, {on}, {chance(logits, pool.labels)}", flush=True)
    for (on, name), each in rows.items():
        means = [f"{key} {np.mean(v):.3f} ± {np.std(v, ddof=1) if len(v) > 1 else 0:.3f}" for key, v in _columns(each)]
        print(f"{on}, {name}, {len(each)} seeds: {', '.join(means)}")
    if picture is not None:
        from ray_synth.report.sections.membership import roc_figure

        first = {
            f"lira/{on}/{key}": value for on in ("real", "synthetic") for key, value in rows[on, "online"][0].items()
        }
        roc_figure(first).savefig(picture, dpi=110)


def _columns(found: list[dict[str, float]]) -> list[tuple[str, list[float]]]:
    return [(key, [each[key] for each in found]) for key in ("accuracy", "auc", "tpr_at_1_percent")]


def memorised() -> None:
    digits = read_digits()
    order = np.random.default_rng(0).permutation(len(digits))
    pool, rest = digits.take(order[:400]), digits.take(order[400:800])
    drawn = np.random.default_rng(1).integers(0, 10, 400)
    random = ImageSet(pixels=pool.images(), labels=drawn, class_names=pool.class_names)
    for name, images in (("random labels", random), ("own labels", pool)):
        recipe = Recipe(lira=Lira(shadows=SHADOWS), classifier=BY_HEART, validation=rest)
        inside = halves(images.labels, SHADOWS, 0)
        logits = shadow_logits(images, recipe, inside, "real", 0)
        right = (logits.argmax(-1) == images.labels)[inside].mean()
        for mode, lira in MODES.items():
            print(f"{name}, {right:.3f} of members right, {mode}: {row(said(logits, images.labels, inside, lira))}")
        print(f"{name}, {chance(logits, images.labels)}", flush=True)


def chance(logits: np.ndarray, labels: np.ndarray) -> str:
    found = by_other_draws(logits, labels)
    return f"membership drawn again {len(found)} times: AUC {found.mean():.3f} ± {found.std(ddof=1):.3f}"


def by_other_draws(logits: np.ndarray, labels: np.ndarray, draws: int = 20) -> np.ndarray:
    """The AUC against memberships that say nothing of what the models were trained on. [draws]"""
    confidences = np.stack([logit_confidence(each, labels) for each in logits])
    others = [halves(labels, len(logits), 1000 + draw) for draw in range(draws)]
    scores = [attacked(confidences, inside, Lira(shadows=len(logits))) for inside in others]
    return np.array([Roc.of(s.ravel(), inside.ravel()).auc for s, inside in zip(scores, others, strict=True)])


def at_once() -> None:
    """Wall and processor seconds; twice each, the better one counts."""
    e = load_experiment(DIGITS)
    splits = read_splits(e.data, 0)
    inside = halves(splits.train.labels, SHADOWS, 0)
    sets = [splits.train.take(np.flatnonzero(rows)) for rows in inside]
    updates = 20
    for batch in (16, 64):
        settings = e.classifier.model_copy(update={"updates": updates, "batch_size": batch})
        taken = {}
        for many in (1, SHADOWS) * 2:
            together.AT_ONCE = many
            wall, processor = time.monotonic(), time.process_time()
            list(fit_each(sets, splits.validation, settings, seeds=range(SHADOWS)))
            found = (time.monotonic() - wall, time.process_time() - processor)
            taken[many] = min(taken.get(many, found), found)
        alone, at_once = taken[1], taken[SHADOWS]
        print(
            f"batches of {batch}, {SHADOWS} models of {updates} updates: one after the other {alone[0]:.1f} s "
            f"({alone[1]:.1f} s of a processor), at once {at_once[0]:.1f} s ({at_once[1]:.1f} s): "
            f"{alone[0] / at_once[0]:.2f} and {alone[1] / at_once[1]:.2f} times as fast",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["demo", "memorised", "together"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--logits", type=Path, help="folder in which what the shadow models say is kept and found")
    parser.add_argument("--picture", type=Path, help="write the ROC of the first seed to a PNG file")
    options = parser.parse_args()
    if options.what == "demo":
        demo(options.seeds, options.logits, options.picture)
    else:
        {"memorised": memorised, "together": at_once}[options.what]()


if __name__ == "__main__":
    main()
