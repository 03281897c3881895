"""Real images of CIFAR-10 in, accuracy over the ratio for cleaner and noisier generators out: Figure 7 of Beyond Real
Data, made small.

    RAY_SYNTH_DATA=DATA python -m tests.benchmarks.cifar10 --generator diffusion --out runs/cifar10
    RAY_SYNTH_DATA=DATA python -m tests.benchmarks.cifar10 --generator gaussians --out runs/cifar10
    RAY_SYNTH_DATA=DATA python -m tests.benchmarks.cifar10 --table --plot docs/images/cifar10.png

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
from pathlib import Path

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf_shrinkage

from ray_synth.allocation import synthetic_counts
from ray_synth.classifier.mixture import mix
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
COLUMNS = ("generator", "what", "noise_variance", "ratio", "seed", "value", "low", "high", "verdict")
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


def trained(real: ImageSet, synthetic: ImageSet, ratio: float, updates: int, seed: int) -> float:
    """Test accuracy."""
    data = mix(
        real,
        synthetic,
        synthetic_counts(real.counts, ratio, "fill"),
        partition=PartitionSettings(num_clusters=1),
        seed=seed,
        features=np.zeros((len(real) + len(synthetic), 1), np.float32),  # without the two terms regions do nothing
    )
    return fit(data, real_sets()["test"], SETTINGS.model_copy(update={"updates": updates}), seed=seed).accuracy


def estimated(real: ImageSet, synthetic: ImageSet, seed: int) -> dict[str, object]:
    """The prediction, from the real images and a pilot."""
    pilot = synthetic.take(rank_in_class(synthetic.labels) < PILOT * SHOTS)
    found = estimate_ratio(
        real.images(), real.labels, pilot.images(), pilot.labels, max_ratio=max(RATIOS), methods=METHODS, seed=seed
    )
    low, high = found.interval
    return {"value": found.ratio, "low": low, "high": high, "verdict": found.verdict}


def rows() -> list[dict[str, str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def run(generator: str, out: Path, steps: int, updates: int, seeds: range) -> None:
    """Make what has no row yet, and write each row as it comes."""

    def key(row: dict[str, object]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in ("generator", "what", "noise_variance", "ratio", "seed"))

    there = {key(dict(row)) for row in rows()}

    def add(what: str, variance: float, ratio: object, seed: int, found: dict[str, object]) -> None:
        row = {"generator": generator, "what": what, "noise_variance": variance, "ratio": ratio, "seed": seed} | found
        new = not RESULTS.exists()
        with RESULTS.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        print({name: value for name, value in row.items() if value != ""}, flush=True)

    def missing(what: str, variance: float, ratio: object, seed: int) -> bool:
        names = ("generator", "what", "noise_variance", "ratio", "seed")
        return key(dict(zip(names, (generator, what, variance, ratio, seed), strict=True))) not in there

    def both(variance: float, seed: int) -> tuple[ImageSet, ImageSet]:
        made = made_images(generator, out, steps, seed)
        return shots_of(real_sets()["pool"], seed), noisy(made, variance, seed)

    if missing("label fidelity", 0.0, "", 0):
        sets = real_sets()
        found = dict(judged_fidelity(sets["generator"], sets["test"], made_images(generator, out, steps, 0), seed=0))
        print({name: round(value, 3) for name, value in found.items()}, flush=True)
        add("label fidelity", 0.0, "", 0, {"value": round(found["label_fidelity"], 4)})
        add("judge accuracy", 0.0, "", 0, {"value": round(found["label_fidelity/judge_accuracy"], 4)})
    for seed, variance in itertools.product(seeds, VARIANCES):
        ratios = RATIOS if variance == 0 else RATIOS[1:]  # without synthetic images there is no noise
        left = [ratio for ratio in ratios if missing("test accuracy", variance, ratio, seed)]
        real, synthetic = both(variance, seed)
        for ratio in left:
            accuracy = trained(real, synthetic, ratio, updates, seed)
            add("test accuracy", variance, ratio, seed, {"value": round(accuracy, 4)})
    for seed, variance in itertools.product(seeds, VARIANCES):
        if missing("estimate", variance, "", seed):
            add("estimate", variance, "", seed, estimated(*both(variance, seed), seed))


def accuracies(generator: str, variance: float) -> np.ndarray:
    """Test accuracy in %, [seeds, ratios], of the seeds that are complete."""
    found: dict[str, dict[float, float]] = {}
    for row in rows():
        if row["generator"] == generator and row["what"] == "test accuracy":
            ratio = float(row["ratio"])
            if ratio == 0 or float(row["noise_variance"]) == variance:
                found.setdefault(row["seed"], {})[ratio] = 100 * float(row["value"])
    complete = [[of[ratio] for ratio in RATIOS] for of in found.values() if len(of) == len(RATIOS)]
    return np.asarray(complete).reshape(-1, len(RATIOS))


def estimates(generator: str, variance: float) -> list[dict[str, str]]:
    return [
        row
        for row in rows()
        if (row["generator"], row["what"], row["noise_variance"]) == (generator, "estimate", str(variance))
    ]


def middle(found: list[dict[str, str]]) -> tuple[float, float, float]:
    """Medians over seeds of the predicted ratio and of the ends of its interval."""
    ratio, low, high = (float(np.median([float(row[name]) for row in found])) for name in ("value", "low", "high"))
    return ratio, low, high


def error(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean over the first axis."""
    spread: np.ndarray = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return spread


def table(generator: str) -> None:
    fidelity, judge = (
        next(float(row["value"]) for row in rows() if (row["generator"], row["what"]) == (generator, what))
        for what in ("label fidelity", "judge accuracy")
    )
    print(f"\n{generator}: label fidelity {fidelity:.3f} under a judge of test accuracy {judge:.3f}")
    print("test accuracy in %, mean ± standard error; gains over ratio 0 are paired")
    best, tops, lasts = [], [], []
    for variance in VARIANCES:
        values = accuracies(generator, variance)
        if len(values) < 2:
            print("  fewer than two seeds are complete")
            return
        mean, gain = values.mean(axis=0), values - values[:, :1]
        shown = "  ".join(f"{r:g}: {m:.1f} ± {e:.1f}" for r, m, e in zip(RATIOS, mean, error(values), strict=True))
        top = int(mean.argmax())
        best.append(RATIOS[top])
        tops.append(gain[:, top].mean())
        lasts.append(gain[:, -1].mean())
        print(f"  variance {variance:g}  {shown}  (n={len(values)})")
        print(
            f"    best at {RATIOS[top]:g}, {gain[:, top].mean():+.1f} ± {error(gain)[top]:.1f}; "
            f"at {RATIOS[-1]:g} {gain[:, -1].mean():+.1f} ± {error(gain)[-1]:.1f}"
        )
        found = estimates(generator, variance)
        if not found:
            continue
        ratio, low, high = middle(found)
        verdicts = ", ".join(row["verdict"] for row in found)
        each = ", ".join(row["value"] for row in found)
        print(f"    predicted {ratio:g} [{low:g}, {high:g}] (medians; seeds: {each}); {verdicts}")
    for name, series in (("best ratio", best), ("gain there", tops), (f"gain at {RATIOS[-1]:g}", lasts)):
        said = "never rises with noise" if series == sorted(series, reverse=True) else "rises with noise somewhere"
        print(f"  {name} {said}: {', '.join(f'{value:.1f}' for value in series)}")


def plot(path: str) -> None:
    from matplotlib.figure import Figure

    shown = [name for name in GENERATORS if len(accuracies(name, 0.0)) > 1]
    figure = Figure(figsize=(max(6.0, 4.6 * len(shown)), 4.2), layout="constrained")
    ticks = np.log2(1 + np.asarray(RATIOS))
    for axes, generator in zip(figure.subplots(1, len(shown), squeeze=False, sharey=True)[0], shown, strict=True):
        for variance, color in zip(VARIANCES, ("#d9822b", "#3d8b40", "#b3372f"), strict=True):
            values = accuracies(generator, variance)
            mean = values.mean(axis=0)
            axes.errorbar(
                ticks,
                mean,
                yerr=error(values),
                fmt="o-",
                ms=4,
                capsize=2,
                color=color,
                label=f"noise variance {variance:g}",
            )
            found = estimates(generator, variance)
            if not found:
                continue
            ratio, low, high = np.log2(1 + np.asarray(middle(found)))
            height = np.interp(ratio, ticks, mean)
            axes.plot([low, high], [height, height], color=color, lw=6, alpha=0.25, solid_capstyle="butt")
            axes.plot(ratio, height, "D", color=color, ms=9, mec="white", zorder=4)
        axes.set_xticks(ticks, [f"{ratio:g}" for ratio in RATIOS])
        axes.set_xlabel("synthetic images per real image")
        axes.set_title({"diffusion": "small diffusion model", "gaussians": "Gaussians of each class"}[generator])
        axes.spines[["top", "right"]].set_visible(False)
        axes.label_outer()
        axes.grid(alpha=0.2)
    axes = figure.axes[0]
    axes.set_ylabel("test accuracy, %")
    axes.plot([], [], "D", color="grey", ms=9, mec="white", label="predicted ratio, and its interval")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10"), help="where the diffusion model is kept")
    parser.add_argument("--generator", choices=GENERATORS, default="diffusion")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1500, help="of the diffusion model's training")
    parser.add_argument(
        "--updates", type=int, default=300, help="of each classifier; changed, it wants the rows removed"
    )
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--plot", metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if not arguments.table:
        arguments.out.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        run(arguments.generator, arguments.out, arguments.steps, arguments.updates, range(arguments.seeds))
        print(f"{time.perf_counter() - start:.0f} s")
    for generator in GENERATORS:
        if any(row["generator"] == generator for row in rows()):
            table(generator)
    if arguments.plot:
        plot(arguments.plot)


if __name__ == "__main__":
    main()
