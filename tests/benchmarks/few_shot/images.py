"""A dataset's name in, 500 synthetic images per class and the disjoint real sets out, as one .npz: what the few-shot
comparison trains on.

    python -m tests.benchmarks.few_shot.images fashion --out runs/few_shot

The diffusion model is our own, trained from scratch on real images that no classifier sees (10,000 of Fashion-MNIST,
590 digits). Killed, it continues. One core: digits 5 minutes, Fashion-MNIST 45.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch

from ray_synth.config import Data, Diffusion, Generate
from ray_synth.data.images import ImageSet
from ray_synth.data.readers import read_digits
from ray_synth.data.source import ImageSource
from ray_synth.data.splits import split
from ray_synth.evaluators.fidelity import judged_fidelity
from ray_synth.generator.diffusion import DiffusionSampler, load_unet
from ray_synth.generator.finetune import finetune
from ray_synth.runs import RunFolder
from ray_synth.seeding import derive_seed
from ray_synth.torch_ops import keep_freed_memory

PER_CLASS = 500
SETTINGS = {
    "digits": (Diffusion(steps=800), Generate(num_inference_steps=20, guidance_scale=1.5)),
    "fashion": (
        Diffusion(block_out_channels=(32, 64, 64), steps=1600, ema_decay=0.998),
        Generate(num_inference_steps=15, guidance_scale=1.5),
    ),
}


def real_sets(name: str) -> dict[str, ImageSource]:
    """generator, pool (where shots are drawn from), validation and test: disjoint."""
    if name == "digits":
        parts = split(read_digits(), Data(shots=None), 0)
        return {"generator": parts.generator, "pool": parts.train, "validation": parts.validation, "test": parts.test}
    with np.load(Path(os.environ["RAY_SYNTH_DATA"]) / "fashion_mnist_dev_20k5k.npz", allow_pickle=False) as data:
        images, labels, part = data["images"], data["labels"].astype(np.int64), data["split"]
        names = tuple(str(n) for n in data["class_names"])
        test = part == list(data["split_names"]).index("test")
    if images.ndim == 3:
        images = images[..., None]

    def of(rows: np.ndarray) -> ImageSet:
        return ImageSet(pixels=images[rows], labels=labels[rows], class_names=names)

    train = np.random.default_rng(0).permutation(np.flatnonzero(~test))
    return {
        "generator": of(train[:10_000]),
        "pool": of(train[10_000:18_000]),
        "validation": of(train[18_000:19_000]),
        "test": of(np.flatnonzero(test)),
    }


def synthetic(folder: RunFolder, name: str, real: ImageSource) -> ImageSet:
    settings, generate = SETTINGS[name]
    finetune(folder, real, settings, seed=0, progress=lambda step: print(f"step {step}") if step % 100 == 0 else None)
    sampler = DiffusionSampler(load_unet(folder), settings, generate)
    images, labels = [], np.repeat(np.arange(real.num_classes), PER_CLASS)
    for start in range(0, len(labels), 100):
        batch = labels[start : start + 100]
        seeds = [derive_seed("few-shot image", name, start + i) for i in range(len(batch))]
        images += sampler({"label": batch.tolist(), "seed": seeds})["image"]
        print(f"{len(images):,} images")
    return ImageSet(pixels=np.stack(images), labels=labels, class_names=real.class_names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=list(SETTINGS))
    parser.add_argument("--out", default="runs/few_shot")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    sets = real_sets(arguments.name)
    folder = RunFolder(Path(arguments.out) / arguments.name)
    made = synthetic(folder, arguments.name, sets["generator"])
    fidelity = dict(judged_fidelity(sets["generator"], sets["test"], made, seed=0))
    print({name: round(value, 4) for name, value in fidelity.items()})
    if fidelity["label_fidelity"] < 0.5:
        sys.exit(f"label fidelity {fidelity['label_fidelity']:.2f} is under .5: use class Gaussians instead")
    np.savez_compressed(
        Path(arguments.out) / f"{arguments.name}.npz",
        class_names=np.asarray(made.class_names),
        synthetic_images=made.images(),
        synthetic_labels=made.labels,
        label_fidelity=fidelity["label_fidelity"],
        judge_accuracy=fidelity["label_fidelity/judge_accuracy"],
        **{f"{n}_images": sets[n].images() for n in ("pool", "validation", "test")},
        **{f"{n}_labels": sets[n].labels for n in ("pool", "validation", "test")},
    )


if __name__ == "__main__":
    main()
