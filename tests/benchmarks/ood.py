"""CIFAR-10 in, how classifiers of real images and of a mix fare on shifted test images out, as in Real-Fake's Table 4.

    RAY_SYNTH_DATA=FOLDER python -m tests.benchmarks.ood [--seeds 0 1 2] [--shots 50] [--ratio 8] [--updates 400]

Of the 10,000 training images `shots` a class are the real training set, 50 a class the validation set, and the rest
the pool that the synthetic images are drawn from: points between an image of the pool and one of its neighbours in the
class (smote), or of the class's mean and 20 leading directions (gaussian-20). They are cheap stand-ins for a
generator, which knows more images than the classifier does; no diffusion model. The test set is shifted by JPEG
(cifar10_dev_test_jpegshift.npz: quality 75, 4:2:0) and by the five corruptions of CIFAR-10-C that the package makes.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from ray_synth.classifier.mixture import TrainingData
from ray_synth.classifier.train import fit
from ray_synth.config import CORRUPTIONS, Augment, Classifier
from ray_synth.data.images import ImageSet, first_per_class
from ray_synth.data.ood import FurtherSet
from ray_synth.evaluators.accuracy import final_accuracy
from ray_synth.evaluators.context import EvaluationContext
from ray_synth.evaluators.ood import corruption, shifted
from tests.benchmarks.ratiobench.generators import generator_of

VALIDATION = 50  # images a class
NAMES = ("accuracy", "ood/jpeg", *(f"corruption/{name}" for name in (*CORRUPTIONS, "mean")))


def images_of(file: Path, part: str) -> ImageSet:
    found = np.load(file, allow_pickle=False)
    rows = found["split"] == list(found["split_names"]).index(part)
    names = tuple(map(str, found["class_names"]))
    return ImageSet(pixels=found["images"][rows], labels=found["labels"][rows].astype(np.int64), class_names=names)


def sets_of(train: ImageSet, shots: int, seed: int) -> tuple[ImageSet, ImageSet, ImageSet]:
    """Real training images, validation images and the pool, drawn with the seed."""
    order = np.random.default_rng(seed).permutation(len(train))
    shuffled = train.take(order)
    classes = train.num_classes
    real = first_per_class(shuffled.labels, np.full(classes, shots))
    both = first_per_class(shuffled.labels, np.full(classes, shots + VALIDATION))
    pool = np.setdiff1d(np.arange(len(train)), both)
    return shuffled.take(real), shuffled.take(np.setdiff1d(both, real)), shuffled.take(pool)


def trained(
    real: ImageSet, validation: ImageSet, synthetic: ImageSet | None, settings: Classifier, seed: int
) -> tuple[nn.Module, float]:
    data = TrainingData.of_real(real)
    if synthetic is not None:
        both = len(real), len(synthetic)
        data = TrainingData(
            real=real,
            synthetic=synthetic,
            real_regions=np.zeros(both[0], dtype=np.int64),
            synthetic_regions=np.zeros(both[1], dtype=np.int64),
        )
    fitted = fit(data, validation, settings, seed=seed)
    return fitted.model, fitted.accuracy


def measured(folder: Path, seed: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Setting -> figure -> accuracy, of one seed; and whose images' share is left."""
    file = folder / "cifar10_dev_10k5k.npz"
    real, validation, pool = sets_of(images_of(file, "train"), options.shots, seed)
    test, jpeg = images_of(file, "test"), images_of(folder / "cifar10_dev_test_jpegshift.npz", "test")
    settings = Classifier(updates=options.updates, lambda_1=0.0, lambda_2=0.0, augment=Augment(flip=0.5))
    trivial = settings.model_copy(update={"augment": Augment(flip=0.5, trivial=1.0)})
    found = {}
    for name, kind, how in (
        ("real only", None, settings),
        ("real only, TrivialAugment", None, trivial),
        ("smote", "smote", settings),
        ("gaussian-20", "gaussian-20", settings),
    ):
        begin = time.monotonic()
        synthetic = None
        if kind is not None:
            rng = np.random.default_rng(seed)
            pixels, labels = generator_of(kind)(pool.images(), pool.labels, options.shots * options.ratio, rng)
            synthetic = ImageSet(pixels=pixels, labels=labels.astype(np.int64), class_names=real.class_names)
        model = trained(real, validation, synthetic, how, seed)
        context = EvaluationContext(
            classifiers=[("it", partial(lambda model: model, model))],
            train=real,
            test=test,
            read_all_but_test=lambda: real,
            read_synthetic=lambda: real,
            seed=seed,
            further=[FurtherSet(name="jpeg", images=jpeg, classes=np.arange(10))],
            corruptions=CORRUPTIONS,
            corrupted_images=options.images,
        )
        numbers = dict(final_accuracy(context)) | dict(shifted(context)) | dict(corruption(context))
        found[name] = {key: numbers[f"{key}/it"] for key in NAMES}
        found[name]["corruption/remains"] = numbers["corruption/mean/it/remains"]
        said = ", ".join(f"{key} {value:.4f}" for key, value in found[name].items())
        print(f"seed {seed}, {name}: {said} ({time.monotonic() - begin:.0f} s)", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--shots", type=int, default=50, help="real training images a class")
    parser.add_argument("--ratio", type=int, default=8, help="synthetic images per real one")
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--images", type=int, default=400, help="test images that are corrupted")
    options = parser.parse_args()
    folder = os.environ.get("RAY_SYNTH_DATA")
    if not folder:
        raise SystemExit("RAY_SYNTH_DATA is not set: no measuring data here")
    rows = [measured(Path(folder), seed, options) for seed in options.seeds]
    for name in rows[0]:
        each = {key: np.array([row[name][key] for row in rows]) for key in rows[0][name]}
        means = ", ".join(f"{key} {v.mean():.4f} ± {v.std(ddof=1) if len(v) > 1 else 0:.4f}" for key, v in each.items())
        print(f"{name}, {len(rows)} seeds: {means}")


if __name__ == "__main__":
    main()
