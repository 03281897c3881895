"""Real images of CIFAR-10 in, `cifar10.csv` out: accuracy over the ratio for cleaner and noisier generators, all
classes and each, as in Figure 7 and section I.2 of Beyond Real Data, made small. `cifar10_figures` shows it.

    RAY_SYNTH_DATA=DATA python -m tests.benchmarks.cifar10 --generator diffusion --out runs/cifar10
    RAY_SYNTH_DATA=DATA python -m tests.benchmarks.cifar10 --generator gaussians --out runs/cifar10
    RAY_SYNTH_DATA=DATA python -m tests.benchmarks.cifar10 --generator gaussians --updates 1200 --seeds 3

50 real images a class of 250 that no generator sees, ratios 0 to 9, noise of variance 0, 0.5 and 1 on the synthetic
ones (pixels in [-1, 1]), the paper's two-layer network, the same number of updates at every ratio, tested on 5,000
images. A seed draws the real images, the order of the synthetic ones, the noise, the weights and the batches; all
settings share it, so differences are paired. The generator is our own small diffusion model, or Gaussians of each class
in pixel space, both fitted on 750 images a class that no classifier sees. Every training and every estimate is a row of
`cifar10.csv`; those that are there are not made again. Killed, it continues.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf_shrinkage

from ray_synth.allocation import synthetic_counts
from ray_synth.classifier.mixture import mix
from ray_synth.classifier.predict import logits_of
from ray_synth.classifier.train import fit
from ray_synth.config import Augment, Classifier, Diffusion, Generate, PartitionSettings
from ray_synth.data.images import ImageSet, first_per_class, rank_in_class
from ray_synth.estimate import estimate_ratio
from ray_synth.evaluators.fidelity import judged_fidelity
from ray_synth.generator.diffusion import DiffusionSampler, load_unet, pixel_noise
from ray_synth.generator.finetune import finetune
from ray_synth.runs import RunFolder
from ray_synth.seeding import derive_seed
from ray_synth.torch_ops import keep_freed_memory

RESULTS = Path(__file__).with_name("cifar10.csv")
# updates: of a classifier; classes: of each its recall, or its predicted ratio, with a space between.
COLUMNS = (
    "generator",
    "what",
    "noise_variance",
    "ratio",
    "seed",
    "updates",
    "value",
    "low",
    "high",
    "verdict",
    "classes",
)
KEY = COLUMNS[:6]
GENERATORS = ("diffusion", "gaussians")
RATIOS, VARIANCES = (0.0, 0.5, 1.0, 3.0, 9.0), (0.0, 0.5, 1.0)
SHOTS, PER_CLASS, FOR_GENERATOR = 50, 450, 750
PILOT = 4  # synthetic images per real one that the estimate sees
METHODS = ("probe",)
SETTINGS = Classifier(
    model="compact_cnn",
    lambda_1=0.0,
    lambda_2=0.0,
    learning_rate=1e-3,
    weight_decay=0.0,  # Adam
    augment=Augment(flip=0.5),
    evaluations=1,
    keep="last",  # nothing is chosen on the test set
)
SAMPLING = Generate(num_inference_steps=15, guidance_scale=2.0)


@functools.cache
def real_sets() -> dict[str, ImageSet]:
    """generator, pool (where shots are drawn from) and test: disjoint."""
    with np.load(Path(os.environ["RAY_SYNTH_DATA"]) / "cifar10_dev_10k5k.npz", allow_pickle=False) as data:
        images, labels, part = data["images"], data["labels"].astype(np.int64), data["split"]
        names = tuple(str(name) for name in data["class_names"])
        test = part == list(data["split_names"]).index("test")
    train = ImageSet(pixels=images[~test], labels=labels[~test], class_names=names)
    train = shuffled(train, derive_seed("cifar10 sets"))
    chosen = first_per_class(train.labels, np.full(len(names), FOR_GENERATOR))
    return {
        "generator": train.take(chosen),
        "pool": train.take(np.setdiff1d(np.arange(len(train)), chosen)),
        "test": ImageSet(pixels=images[test], labels=labels[test], class_names=names),
    }


def shuffled(images: ImageSet, seed: int) -> ImageSet:
    return images.take(np.random.default_rng(seed).permutation(len(images)))


def folded(images: np.ndarray) -> np.ndarray:
    """[N,H,W,C] -> [N,H/2,W/2,4C]: patches of 2x2 pixels as channels, with which a UNet costs a quarter."""
    n, h, w, c = images.shape
    patches = images.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(patches.reshape(n, h // 2, w // 2, 4 * c))


def unfolded(patches: np.ndarray) -> np.ndarray:
    """Undoes `folded`."""
    n, h, w, c = patches.shape
    images = patches.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(images.reshape(n, 2 * h, 2 * w, c // 4))


def diffusion_images(out: Path, steps: int) -> ImageSet:
    """Samples of a diffusion model that is trained for it, from the file where they are there already."""
    real = real_sets()["generator"]
    labels = np.repeat(np.arange(real.num_classes), PER_CLASS)
    kept = out / f"diffusion-{steps}.npy"
    if not kept.exists():
        settings = Diffusion(block_out_channels=(32, 64, 96), steps=steps, ema_decay=0.998)
        folder = RunFolder(out / f"diffusion-{steps}")
        patches = ImageSet(pixels=folded(real.images()), labels=real.labels, class_names=real.class_names)
        finetune(
            folder,
            patches,
            settings,
            seed=0,
            progress=lambda step: print(f"step {step}", flush=True) if step % 100 == 0 else None,
        )
        sampler = DiffusionSampler(load_unet(folder), settings, SAMPLING)
        images: list[np.ndarray] = []
        for start in range(0, len(labels), 90):
            batch = labels[start : start + 90]
            seeds = [derive_seed("cifar10 image", start + i) for i in range(len(batch))]
            images += sampler({"label": batch.tolist(), "seed": seeds})["image"]
            print(f"{len(images):,} images", flush=True)
        np.save(kept, unfolded(np.stack(images)), allow_pickle=False)
    return ImageSet(pixels=np.load(kept, allow_pickle=False), labels=labels, class_names=real.class_names)


def gaussian_images(seed: int) -> ImageSet:
    """Samples of N(mean, (1 - s) covariance + s mean variance) of each class, s by Ledoit & Wolf."""
    real = real_sets()["generator"]
    rng = np.random.default_rng(derive_seed("cifar10 gaussians", seed))
    made = []
    for label in range(real.num_classes):
        x = real.images()[real.labels == label].reshape(FOR_GENERATOR, -1).astype(np.float32)
        centred, s = x - x.mean(axis=0), shrinkage(label)
        common = rng.standard_normal((PER_CLASS, len(x)), np.float32) @ centred / np.sqrt(len(x))
        own = rng.standard_normal((PER_CLASS, x.shape[1]), np.float32) * centred.std()
        made.append(x.mean(axis=0) + np.sqrt(1 - s) * common + np.sqrt(s) * own)
    images = np.concatenate(made).round().clip(0, 255).astype(np.uint8).reshape(-1, *real.shape)
    labels = np.repeat(np.arange(real.num_classes), PER_CLASS)
    return ImageSet(pixels=images, labels=labels, class_names=real.class_names)


@functools.cache
def shrinkage(label: int) -> float:
    real = real_sets()["generator"]
    return float(ledoit_wolf_shrinkage(real.images()[real.labels == label].reshape(FOR_GENERATOR, -1) / 255.0))


def noisy(images: ImageSet, variance: float, seed: int) -> ImageSet:
    if not variance:
        return images
    x = torch.from_numpy(images.images()).float() / 127.5 - 1
    seeds = [derive_seed("cifar10 noise", seed, i) for i in range(len(images))]
    x = (x + pixel_noise(seeds, x.shape[1:], variance)).clamp(-1, 1)
    pixels = ((x + 1) * 127.5).round().to(torch.uint8).numpy()
    return ImageSet(pixels=pixels, labels=images.labels, class_names=images.class_names)


@functools.lru_cache(maxsize=1)
def made_images(generator: str, out: Path, steps: int, seed: int) -> ImageSet:
    """All synthetic images of a seed, without noise."""
    if generator == "gaussians":
        return gaussian_images(seed)
    return shuffled(diffusion_images(out, steps), derive_seed("cifar10 order", seed))


def shots_of(pool: ImageSet, seed: int) -> ImageSet:
    drawn = shuffled(pool, derive_seed("cifar10 shots", seed))
    return drawn.take(first_per_class(drawn.labels, np.full(drawn.num_classes, SHOTS)))


def trained(real: ImageSet, synthetic: ImageSet, ratio: float, updates: int, seed: int) -> dict[str, object]:
    """Test accuracy, and the recall of each class."""
    data = mix(
        real,
        synthetic,
        synthetic_counts(real.counts, ratio, "fill"),
        partition=PartitionSettings(num_clusters=1),
        seed=seed,
        features=np.zeros((len(real) + len(synthetic), 1), np.float32),  # without the two terms regions do nothing
    )
    test = real_sets()["test"]
    fitted = fit(data, test, SETTINGS.model_copy(update={"updates": updates}), seed=seed)
    right = logits_of(fitted.model, test).argmax(1).numpy() == test.labels
    recall = np.bincount(test.labels, weights=right) / test.counts
    return {"value": round(fitted.accuracy, 4), "classes": listed(recall, ".3f")}


def listed(values: Iterable[float], how: str) -> str:
    return " ".join(f"{value:{how}}" for value in values)


def estimated(real: ImageSet, synthetic: ImageSet, seed: int) -> dict[str, object]:
    """The prediction, from the real images and a pilot."""
    pilot = synthetic.take(rank_in_class(synthetic.labels) < PILOT * SHOTS)
    found = estimate_ratio(
        real.images(), real.labels, pilot.images(), pilot.labels, max_ratio=max(RATIOS), methods=METHODS, seed=seed
    )
    low, high = found.interval
    of_class = listed((each.ratio for each in sorted(found.classes, key=lambda each: each.label)), "g")
    return {"value": found.ratio, "low": low, "high": high, "verdict": found.verdict, "classes": of_class}


def rows() -> list[dict[str, str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def run(generator: str, out: Path, steps: int, updates: int, seeds: range) -> None:
    """Make what has no row yet, and write each row as it comes."""

    def key(row: Mapping[str, object]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in KEY)

    there = {key(row) for row in rows()}

    def add(what: str, variance: float, ratio: object, seed: int, found: dict[str, object], took: object = "") -> None:
        row = dict(zip(KEY, (generator, what, variance, ratio, seed, took), strict=True)) | found
        new = not RESULTS.exists()
        with RESULTS.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        print({name: value for name, value in row.items() if value != ""}, flush=True)

    def missing(what: str, variance: float, ratio: object, seed: int, took: object = "") -> bool:
        return key(dict(zip(KEY, (generator, what, variance, ratio, seed, took), strict=True))) not in there

    def both(variance: float, seed: int) -> tuple[ImageSet, ImageSet]:
        made = made_images(generator, out, steps, seed)
        return shots_of(real_sets()["pool"], seed), noisy(made, variance, seed)

    if missing("label fidelity", 0.0, "", 0):
        sets = real_sets()
        told = dict(judged_fidelity(sets["generator"], sets["test"], made_images(generator, out, steps, 0), seed=0))
        print({name: round(value, 3) for name, value in told.items()}, flush=True)
        add("label fidelity", 0.0, "", 0, {"value": round(told["label_fidelity"], 4)})
        add("judge accuracy", 0.0, "", 0, {"value": round(told["label_fidelity/judge_accuracy"], 4)})
    for seed, variance in itertools.product(seeds, VARIANCES):
        ratios = RATIOS if variance == 0 else RATIOS[1:]  # without synthetic images there is no noise
        left = [ratio for ratio in ratios if missing("test accuracy", variance, ratio, seed, updates)]
        real, synthetic = both(variance, seed)
        for ratio in left:
            found = trained(real, synthetic, ratio, updates, seed)
            add("test accuracy", variance, ratio, seed, found, updates)
    for seed, variance in itertools.product(seeds, VARIANCES):
        if missing("estimate", variance, "", seed):
            add("estimate", variance, "", seed, estimated(*both(variance, seed), seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10"), help="where the diffusion model is kept")
    parser.add_argument("--generator", choices=GENERATORS, default="diffusion")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1500, help="of the diffusion model's training")
    parser.add_argument("--updates", type=int, default=300, help="of each classifier")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    arguments.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    run(arguments.generator, arguments.out, arguments.steps, arguments.updates, range(arguments.seeds))
    print(f"{time.perf_counter() - start:.0f} s; python -m tests.benchmarks.cifar10_figures shows them")


if __name__ == "__main__":
    main()
