"""The packaged network on CIFAR-10: linear accuracy with few real images, and milliseconds for an image.

    RAY_SYNTH_DATA=DATA OMP_NUM_THREADS=1 python -m tests.benchmarks.pretrained              # 10 minutes on a core
    RAY_SYNTH_DATA=DATA OMP_NUM_THREADS=1 python -m tests.benchmarks.pretrained finetuned    # 10 minutes
    RAY_SYNTH_DATA=DATA OMP_NUM_THREADS=1 python -m tests.benchmarks.pretrained near_copies  # half a minute

Beside it the built-in features (thumbnails, patches), under the same classifier: a logistic regression. `finetuned` is
the whole network trained by the loop of every classifier; `near_copies` are real images that were changed, as the
filter finds them. Exits 1 when a bar (`BARS`) is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ray_synth.features import timm_model
from ray_synth.features.encoders import encoder_of
from ray_synth.features.families import linear_families

NAME = "tf_efficientnet_lite0"
SIZES = (100, 500, 1500)
BARS = {100: 0.53, 500: 0.68, 1500: 0.72}  # at 96 pixels
SEEDS = 3

Sets = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def cifar10(num_test: int) -> Sets:
    with np.load(Path(os.environ["RAY_SYNTH_DATA"]) / "cifar10_dev_10k5k.npz", allow_pickle=False) as file:
        images, labels, split = file["images"], file["labels"], file["split"]
    train, test = np.flatnonzero(split == 0), np.flatnonzero(split == 1)[:num_test]
    return images[train], labels[train], images[test], labels[test]


def drawn(labels: np.ndarray, number: int, seed: int) -> np.ndarray:
    """As many of each class."""
    rng = np.random.default_rng(seed)
    each = number // 10
    return np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:each] for label in range(10)])


def linear(data: Sets, features: Callable[[np.ndarray], np.ndarray], *, scaled: bool) -> dict[int, tuple[float, float]]:
    """Accuracy by number of real images: mean and standard deviation over draws."""
    images, labels, test, test_labels = data
    rows = {(n, seed): drawn(labels, n, seed) for n in SIZES for seed in range(SEEDS)}
    used = np.unique(np.concatenate(list(rows.values())))
    place = np.full(len(labels), -1)
    place[used] = np.arange(len(used))
    seen = features(np.concatenate([images[used], test]))
    train, tested = seen[: len(used)], seen[len(used) :]
    found = {}
    for n in SIZES:
        scores = []
        for seed in range(SEEDS):
            own = rows[n, seed]
            fitted = LogisticRegression(C=0.01 if scaled else 0.1, max_iter=300)
            model = make_pipeline(StandardScaler(), fitted) if scaled else fitted
            scores.append(model.fit(train[place[own]], labels[own]).score(tested, test_labels))
        found[n] = (float(np.mean(scores)), float(np.std(scores, ddof=1)))
    return found


def thumbnails(images: np.ndarray) -> np.ndarray:
    families = linear_families([images, images[:1]], encoder=None, seed=0)
    return np.concatenate([rows[0] for rows in families.values()], axis=1)


def measured(data: Sets) -> bool:
    met = True
    found = linear(data, thumbnails, scaled=True)
    print("| features | ms an image | " + " | ".join(f"{n} real" for n in SIZES) + " |")
    print("|---|---|" + "---|" * len(SIZES))

    def row(name: str, milliseconds: str) -> None:
        cells = " | ".join(f"{mean:.3f} ± {spread:.3f}" for mean, spread in found.values())
        print(f"| {name} | {milliseconds} | {cells} |", flush=True)

    row("built in (thumbnails)", "")
    own = timm_model.FEATURES_SIDE
    for side in (64, 96, own):
        timm_model.FEATURES_SIDE = side
        encoder = encoder_of(f"timm:{NAME}", device="cpu")
        begin = time.process_time()
        encoder(data[2][:256])
        milliseconds = (time.process_time() - begin) / 256 * 1000
        found = linear(data, encoder, scaled=False)
        row(f"timm:{NAME} at {side} pixels", f"{milliseconds:.1f}")
        if side == 96:
            met = all(found[n][0] >= BARS[n] for n in SIZES)
    timm_model.FEATURES_SIDE = own
    return met


def finetuned(data: Sets) -> None:
    from ray_synth.classifier.mixture import TrainingData
    from ray_synth.classifier.train import fit
    from ray_synth.config import Augment, Classifier
    from ray_synth.data.images import ImageSet

    images, labels, test, test_labels = data
    names = tuple(map(str, range(10)))
    tested = ImageSet(pixels=test, labels=test_labels, class_names=names)
    print("| network, 500 real images | learning rate | accuracy | s |")
    print("|---|---|---|---|")
    for weights, rates in ((None, (3e-4, 1e-3, 2e-3)), ("random", (2e-3,))):
        for rate in rates:
            rows = drawn(labels, 500, 0)
            real = ImageSet(pixels=images[rows], labels=labels[rows], class_names=names)
            mixed = TrainingData.of_real(real)
            settings = Classifier(
                model=f"timm:{NAME}",
                weights=weights,
                updates=100,
                batch_size=32,
                evaluations=1,
                learning_rate=rate,
                augment=Augment(flip=0.5),
            )
            begin = time.monotonic()
            accuracy = fit(mixed, tested, settings, seed=0).accuracy
            seconds = time.monotonic() - begin
            print(f"| {weights or 'ImageNet weights'} | {rate:g} | {accuracy:.3f} | {seconds:.0f} |", flush=True)


def near_copies(images: np.ndarray) -> None:
    """Shares of changed real images that the filter takes for copies, and of new ones."""
    from ray_synth.data.images import ImageSet
    from ray_synth.features.copies import RealImages

    real, some, new = images[:600], images[:80], images[1000:1080]
    source = ImageSet(pixels=real, labels=np.zeros(600, dtype=np.int64), class_names=("any",))
    changes = {
        "darker": (0.7 * some).astype(np.uint8),
        "mirrored": some[:, :, ::-1],
        "cut by 2 pixels a side": some[:, 2:30, 2:30],
        "cut by 4": some[:, 4:28, 4:28],
        "new": new,
    }
    print("| compared by | " + " | ".join(changes) + " |")
    for name, encoder in (("pixels", None), ("features", encoder_of(f"timm:{NAME}", device="cpu"))):
        judge = RealImages(source, encoder)
        shares = (judge.are_copies([np.ascontiguousarray(each) for each in seen]).mean() for seen in changes.values())
        print(f"| {name} | " + " | ".join(f"{share:.2f}" for share in shares) + " |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("features", "finetuned", "near_copies"), default="features")
    parser.add_argument("--tests", type=int, default=1000, help="test images")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    data = cifar10(given.tests)
    if given.what != "features":
        finetuned(data) if given.what == "finetuned" else near_copies(data[0])
        return 0
    return 0 if measured(data) else 1


if __name__ == "__main__":
    sys.exit(main())
