"""Real images in, a small Stable Diffusion trained on them out; and what a classifier of real images says of it.

    python -m tests.benchmarks.small_stable_diffusion --dataset digits --out DIR
    python -m tests.benchmarks.small_stable_diffusion --judge DIR --dataset digits --picture FILE.png

No published weights are needed: AutoencoderKL, a CLIP text encoder with its tokenizer, and a UNet2DConditionModel are
trained from small configurations on scikit-learn's digits or on Fashion-MNIST (RAY_SYNTH_DATA names its folder), a
tenth of the prompts empty, and saved as an ordinary folder of StableDiffusionPipeline. It is made once: a training that
was cut off goes on, and a folder that was made with the same settings is taken as it is. `--classes 0-4` trains on
these classes alone, `--invert` on inverted images: what an adaptation starts from. A third of the digits and
Fashion-MNIST's test images are never seen.

The judge is a small network, trained on the same real images. Label fidelity is the share of generated images that it
gives to the class they were asked for.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ray_synth.torch_ops import import_torchvision

import_torchvision()
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer  # noqa: E402

from ray_synth.classifier.mixture import TrainingData  # noqa: E402
from ray_synth.classifier.models import build_model  # noqa: E402
from ray_synth.classifier.predict import logits_of  # noqa: E402
from ray_synth.classifier.train import fit  # noqa: E402
from ray_synth.config import Classifier, Data, Generate, StableDiffusion  # noqa: E402
from ray_synth.data.images import ImageSet  # noqa: E402
from ray_synth.data.readers import read_images  # noqa: E402
from ray_synth.data.transforms import to_model_range  # noqa: E402
from ray_synth.generator.diffusers_pipeline import DiffusersSampler  # noqa: E402
from ray_synth.generator.tiny import tiny_tokenizer  # noqa: E402
from ray_synth.metrics.fidelity import frechet_distance  # noqa: E402
from ray_synth.runs import RunFolder  # noqa: E402
from ray_synth.seeding import derive_seed  # noqa: E402
from ray_synth.training.checkpoint import FolderCheckpoints  # noqa: E402
from ray_synth.training.loop import Loop  # noqa: E402
from ray_synth.training.recipe import Recipe, Schedule  # noqa: E402
from tests.benchmarks.ratiobench.cells import FILES  # noqa: E402

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ray_synth-small"
CHECKPOINTS = "checkpoints"
MADE = "training.json"  # in the pipeline's folder, written last
TEMPLATES = (
    "a photo of a {}", "a photo of the {}", "a picture of a {}", "an image of a {}", "a small photo of a {}",
    "a {}", "one {}", "{}",
)  # fmt: skip
LONGEST = 32  # tokens of a prompt
NO_PROMPT = 0.1  # share of the prompts that are empty
KL = 1e-3  # of the autoencoder's loss: decoded pixels with a deviation of about .04, for [-1, 1]
CORES = 2  # that `--minutes` are of
CARD = """---
license: apache-2.0
tags: [stable-diffusion]
---
# A small Stable Diffusion, for measurements

Trained by `python -m tests.benchmarks.small_stable_diffusion` on {dataset}; its settings are in `{made}`.
"""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Images of `side` pixels, latents of 8x8; updates: of the UNet and the text encoder; width: of its embeddings."""

    side: int
    vae_channels: tuple[int, ...]
    unet_channels: tuple[int, int]
    vae_updates: int
    updates: int
    vae_batch: int = 32
    batch: int = 64
    width: int = 64
    judge_updates: int = 600


SIZES = {
    "digits": Size(side=16, vae_channels=(16, 32), unet_channels=(48, 96), vae_updates=500, updates=900),
    "fashion_mnist": Size(
        side=32, vae_channels=(16, 32, 32), unet_channels=(48, 96), vae_updates=500, updates=500, judge_updates=800
    ),
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """classes: those that are trained on, or none for all; minutes: of `CORES` cores, which cut the updates short."""

    dataset: str
    size: Size
    classes: tuple[int, ...] = ()
    invert: bool = False
    seed: int = 0
    minutes: float | None = None

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=4)
def real_images(dataset: str, side: int, *, invert: bool = False) -> tuple[ImageSet, ImageSet]:
    """Images to train on and to test with, uint8 [N,side,side,3]: Fashion-MNIST's own split, 1,200 digits and 597."""
    if dataset == "digits":
        every = read_images(Data(kind="digits", image_size=side))
        tested = np.random.default_rng(derive_seed("small", "digits")).permutation(len(every)) >= 1200
    else:
        folder = os.environ.get("RAY_SYNTH_DATA")
        if not folder:
            raise SystemExit(f"{dataset} needs the measuring data; set RAY_SYNTH_DATA to its folder")
        every = read_images(Data(kind="npz", path=str(Path(folder) / FILES[dataset]), image_size=side))
        tested = np.asarray(every.parts) == "test"
    pixels = np.repeat(every.pixels, 3, axis=3)
    every = replace(every, pixels=255 - pixels if invert else pixels, parts=None)
    return every.take(np.flatnonzero(~tested)), every.take(np.flatnonzero(tested))


# --- the parts of the pipeline


def prompt_tokenizer(prompts: Sequence[str]) -> Any:
    """Byte-pair encoding in which each word of the prompts is one token; other words are spelled.

    The trainer of `tokenizers` breaks ties another way each time, and a training that goes on needs the same tokens.
    """
    empty = tiny_tokenizer()
    rust = empty.backend_tokenizer
    split = [rust.pre_tokenizer.pre_tokenize_str(rust.normalizer.normalize_str(prompt)) for prompt in prompts]
    words = {(*word[:-1], word[-1] + "</w>") for pieces in split for word, _ in pieces}
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for word in words for pair in pairwise(word)):
        pair = max(pairs, key=lambda each: (pairs[each], each))
        merges.append(pair)
        words = {_merged(word, pair) for word in words}
    vocabulary = [*empty.get_vocab(), *dict.fromkeys("".join(pair) for pair in merges)]
    ordered = {word: i for i, word in enumerate(sorted(vocabulary))}
    return CLIPTokenizer(vocab=ordered, merges=merges, model_max_length=LONGEST)


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """The word with the pair as one symbol, from the left."""
    found: list[str] = []
    for symbol in word:
        if found and (found[-1], symbol) == pair:
            found[-1] += symbol
        else:
            found.append(symbol)
    return tuple(found)


def build_vae(size: Size) -> Any:
    levels = len(size.vae_channels)
    return AutoencoderKL(
        block_out_channels=size.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=8,
        sample_size=size.side,
        scaling_factor=1.0,  # `standardize` sees to it
    )


def build_unet(size: Size) -> Any:
    return UNet2DConditionModel(
        sample_size=size.side // 2 ** (len(size.vae_channels) - 1),
        block_out_channels=size.unet_channels,
        layers_per_block=1,
        cross_attention_dim=size.width,
        attention_head_dim=4,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )


def build_text_encoder(size: Size, tokenizer: Any) -> Any:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.width,
            intermediate_size=4 * size.width,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LONGEST,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def noise_schedule() -> Any:
    """Stable Diffusion's betas; it predicts the velocity, as version 2 does."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type="v_prediction",
    )  # fmt: skip


# --- training


class Clock:
    """Lines of progress, with the wall time and the time of all cores since it was made."""

    def __init__(self, what: str):
        self.what, self.wall, self.cpu = what, time.monotonic(), time.process_time()

    def spent(self) -> dict[str, float]:
        return {"wall_s": round(time.monotonic() - self.wall, 1), "cpu_s": round(time.process_time() - self.cpu, 1)}

    def say(self, text: str) -> None:
        spent = self.spent()
        print(f"{self.what}: {text}; {spent['wall_s']:.0f} s, {spent['cpu_s']:.0f} s of CPU", flush=True)


def trained(
    model: nn.Module, loss: Any, updates: int, *, rate: float, budget_s: float | None, ema_decay: float, folder: Path,
    what: str,
) -> dict[str, float]:  # fmt: skip
    """Train it, and leave the average of its weights in it; fewer updates than asked where budget_s CPU seconds end.

    folder: of a checkpoint, from which a training that was cut off goes on. It is left there, to be removed with all.
    """
    clock, checkpoints = Clock(what), FolderCheckpoints(RunFolder(str(folder)), f"{what}.safetensors")
    if budget_s is not None:
        loss(0).backward()
        start = time.process_time()
        loss(0).backward()
        updates = max(1, min(updates, int(0.9 * budget_s / (time.process_time() - start))))
    recipe = Recipe(
        updates=updates,
        learning_rate=rate,
        schedule=Schedule(warmup=min(50, updates // 4)),
        clip_norm=1.0,
        ema_decay=ema_decay,
    )
    loop = Loop(model, recipe)
    resumed = loop.resume(checkpoints)
    if resumed:
        clock.say(f"goes on after {resumed} updates")
    kept_at = [*range(100, updates, 100), updates]
    seen: list[float] = []

    def noted(step: int) -> torch.Tensor:
        found = loss(step)
        seen.append(float(found.detach()))
        return found

    for done in loop.run(noted, kept_at=kept_at, checkpoints=checkpoints):
        if done % 100 == 0 or done == updates:
            clock.say(f"{done}/{updates}, loss {np.mean(seen[-100:]):.4f}")
    checkpoints.save(loop.saved())
    assert loop.average is not None
    loop.average.copy_to(model)
    model.eval()
    return {"updates": updates, "resumed_after": resumed, **clock.spent()}


def train_vae(vae: Any, pixels: torch.Tensor, wanted: Wanted, budget_s: float | None, folder: Path) -> dict[str, float]:
    def loss(step: int) -> torch.Tensor:
        random = torch.Generator().manual_seed(derive_seed("small", "vae", wanted.seed, step))
        x = pixels[torch.randint(0, len(pixels), (wanted.size.vae_batch,), generator=random)]
        posterior = vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=random)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return F.mse_loss(vae.decode(z).sample, x) + KL * kl

    updates = wanted.size.vae_updates
    return trained(vae, loss, updates, rate=2e-3, budget_s=budget_s, ema_decay=0.99, folder=folder, what="autoencoder")


@torch.no_grad()
def latents_of(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Posterior means [N,4,h,w]."""
    return torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(256)])


@torch.no_grad()
def standardize(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Give every channel of the latents mean 0 and deviation 1; images are decoded as before.

    Stable Diffusion scales by one number. The 1x1 convolutions on both sides of the latents can do it by channel.
    """
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    after, before, count = vae.post_quant_conv, vae.quant_conv, len(mean)
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= std[None, :, None, None]
    before.weight[:count] /= std[:, None, None, None]
    before.bias[:count] = (before.bias[:count] - mean) / std
    before.bias[count:] -= 2 * std.log()
    return (latents - mean[:, None, None]) / std[:, None, None]


def train_denoiser(
    parts: nn.ModuleDict, latents: torch.Tensor, prompts: torch.Tensor, labels: torch.Tensor, wanted: Wanted,
    budget_s: float | None, folder: Path,
) -> dict[str, float]:  # fmt: skip
    """UNet and text encoder together. prompts: token ids [1 + classes * templates, T], first of the empty prompt."""
    schedule = noise_schedule()
    times = schedule.config.num_train_timesteps

    def loss(step: int) -> torch.Tensor:
        random = torch.Generator().manual_seed(derive_seed("small", "denoiser", wanted.seed, step))
        count = wanted.size.batch
        rows = torch.randint(0, len(latents), (count,), generator=random)
        x, noise = latents[rows], torch.randn((count, *latents.shape[1:]), generator=random)
        template = torch.randint(0, len(TEMPLATES), (count,), generator=random)
        chosen = 1 + labels[rows] * len(TEMPLATES) + template
        chosen[torch.rand(count, generator=random) < NO_PROMPT] = 0
        some, where = torch.unique(chosen, return_inverse=True)
        text = parts["text_encoder"](prompts[some]).last_hidden_state[where]
        # One time in each of as many equal pieces: a steadier loss than times that are independent.
        t = ((torch.arange(count) + torch.rand(count, generator=random)) * times / count).long()
        predicted = parts["unet"](schedule.add_noise(x, noise, t), t, encoder_hidden_states=text).sample
        return F.mse_loss(predicted, schedule.get_velocity(x, noise, t))

    updates = wanted.size.updates
    return trained(parts, loss, updates, rate=1e-3, budget_s=budget_s, ema_decay=0.995, folder=folder, what="denoiser")


def make(wanted: Wanted, out: Path | None = None) -> Path:
    """The folder of the pipeline; trained where it is not there yet."""
    out = out or CACHE / f"{wanted.dataset}-{wanted.digest}"
    if (out / MADE).exists():
        if json.loads((out / MADE).read_text())["digest"] != wanted.digest:
            raise SystemExit(f"{out} holds a pipeline of other settings; give another --out, or remove it")
        return out
    if out.exists() and any(out.iterdir()):
        raise SystemExit(f"{out} is there and no pipeline of ours; give another --out")
    clock, size = Clock(wanted.dataset), wanted.size
    torch.manual_seed(derive_seed("small", "weights", wanted.seed) % 2**32)
    real, _ = real_images(wanted.dataset, size.side, invert=wanted.invert)
    names = real.class_names
    if wanted.classes:
        real = real.take(np.flatnonzero(np.isin(real.labels, wanted.classes)))
    pixels, labels = to_model_range(torch.from_numpy(real.pixels)), torch.from_numpy(real.labels)
    budget_s = [None if wanted.minutes is None else share * wanted.minutes * 60 * CORES for share in (0.25, 0.7)]
    texts = ["", *(template.format(name) for name in names for template in TEMPLATES)]
    tokenizer = prompt_tokenizer(texts)
    vae, unet, text_encoder = build_vae(size), build_unet(size), build_text_encoder(size, tokenizer)
    partial = out.with_name(f"{out.name}.{wanted.digest}.partial")
    spent = {"vae": train_vae(vae, pixels.contiguous(), wanted, budget_s[0], partial / CHECKPOINTS)}
    latents = standardize(vae, latents_of(vae, pixels.contiguous()))
    ids = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    parts = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    spent["denoiser"] = train_denoiser(parts, latents, ids, labels, wanted, budget_s[1], partial / CHECKPOINTS)
    StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=noise_schedule(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(partial, safe_serialization=True)  # fmt: skip
    (partial / "README.md").write_text(CARD.format(dataset=wanted.dataset, made=MADE))
    record = {"digest": wanted.digest, "wanted": asdict(wanted), "spent": spent, "all": clock.spent()}
    shutil.rmtree(partial / CHECKPOINTS)
    (partial / MADE).write_text(json.dumps(record, indent=2) + "\n")
    if out.exists():
        out.rmdir()
    partial.rename(out)
    clock.say(f"made {out}")
    return out


# --- judging


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """A classifier of real images; `accuracy` is its own, on real ones that it has not seen."""

    network: nn.Module
    test: ImageSet
    accuracy: float

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """What goes into its last layer: [N,H,W,3] -> [N,d]."""
        body: Any = self.network
        return logits_of(body[:-1], pixels).numpy().astype(np.float64)

    def predicted(self, pixels: np.ndarray) -> np.ndarray:
        return logits_of(self.network, pixels).argmax(1).numpy()


def judge_of(dataset: str, *, invert: bool = False) -> Judge:
    """Trained once, kept in the cache."""
    size = SIZES[dataset]
    train, test = real_images(dataset, size.side, invert=invert)
    settings = Classifier(
        model="compact_cnn", updates=size.judge_updates, batch_size=64, learning_rate=1e-3, evaluations=1
    )
    network = build_model(settings, train.shape, train.class_names, seed=0)
    told = f"{settings.model_dump_json()} {hashlib.sha256(train.pixels.tobytes()).hexdigest()}"
    kept = CACHE / f"judge-{dataset}-{hashlib.sha256(told.encode()).hexdigest()[:16]}.safetensors"
    if kept.exists():
        network.load_state_dict(load_file(kept))
    else:
        data = TrainingData.of_real(train)
        network = fit(data, test, settings, seed=0).model
        CACHE.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, kept)
    right = logits_of(network, test).argmax(1).numpy() == test.labels
    return Judge(network=network, test=test, accuracy=float(right.mean()))


def generated(
    folder: Path, class_names: Sequence[str], classes: Sequence[int], per_class: int, *, steps: int = 25,
    guidance: float = 2.0, seed: int = 0, lora: Path | None = None,
) -> ImageSet:  # fmt: skip
    """`per_class` images of each of `classes` in turn, by our sampler and its default prompt."""
    settings = StableDiffusion(model=str(folder), lora=None if lora is None else str(lora))
    generate = Generate(num_inference_steps=steps, guidance_scale=guidance)
    sampler = DiffusersSampler(folder, settings, generate, class_names=class_names)
    images: list[np.ndarray] = []
    for label in classes:
        batch = {
            "label": [label] * per_class,
            "class_name": [class_names[label]] * per_class,
            "prompt": [settings.prompt[0].replace("{class}", class_names[label])] * per_class,
            "negative_prompt": [""] * per_class,
            "parent": [None] * per_class,
            "seed": [derive_seed("small", "image", seed, label, i) for i in range(per_class)],
        }
        images += sampler(batch)["image"]
    return ImageSet(pixels=np.stack(images), labels=np.repeat(classes, per_class), class_names=tuple(class_names))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """fidelity: the share of images that the judge gives to their class; of_class: the same of each class."""

    fidelity: float
    of_class: dict[str, float]
    fid: float
    accuracy: float


def judged(images: ImageSet, judge: Judge) -> Judged:
    """FID is over the judge's features, against the test images of the same classes."""
    classes = np.unique(images.labels)
    right = judge.predicted(images.pixels) == images.labels
    real = judge.test.pixels[np.isin(judge.test.labels, classes)]
    return Judged(
        fidelity=float(right.mean()),
        of_class={images.class_names[c]: float(right[images.labels == c].mean()) for c in classes},
        fid=frechet_distance(judge.features(real), judge.features(images.pixels)),
        accuracy=judge.accuracy,
    )


def draw(images: ImageSet, path: Path, columns: int = 12) -> None:
    """A row a class."""
    from PIL import Image

    rows = [images.pixels[images.labels == label][:columns] for label in np.unique(images.labels)]
    grid = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    Image.fromarray(grid).resize((3 * grid.shape[1], 3 * grid.shape[0]), Image.Resampling.NEAREST).save(path)


def say_judged(given: argparse.Namespace, classes: tuple[int, ...]) -> None:
    judge = judge_of(given.dataset, invert=given.invert)
    names, side = judge.test.class_names, SIZES[given.dataset].side
    clock = Clock("generated")
    images = generated(
        given.judge, names, classes or range(len(names)), given.per_class, steps=given.steps, guidance=given.guidance,
        seed=given.seed, lora=given.lora,
    )  # fmt: skip
    clock.say(f"{len(images)} images in {given.steps} steps, guidance {given.guidance:g}")
    found = judged(images, judge)
    train, _ = real_images(given.dataset, side, invert=given.invert)
    order = np.random.default_rng(given.seed).permutation(len(train))  # the files are sorted by who wrote the digits
    few = np.concatenate([order[train.labels[order] == c][: given.per_class] for c in np.unique(images.labels)])
    print(f"the judge's own accuracy on {len(judge.test)} real test images: {judge.accuracy:.3f}")
    print(f"label fidelity: {found.fidelity:.3f}")
    print("  " + ", ".join(f"{name} {value:.2f}" for name, value in found.of_class.items()))
    print(f"FID over the judge's features: {found.fid:.2f} (as many real training images: "
          f"{judged(train.take(few), judge).fid:.2f})")  # fmt: skip
    if given.picture:
        draw(images, given.picture)


def class_range(text: str) -> tuple[int, ...]:
    """`0-4` or `0,2,5`."""
    first, dash, last = text.partition("-")
    found = range(int(first), int(last) + 1) if dash else map(int, text.split(","))
    chosen = tuple(sorted(set(found)))
    if not chosen or chosen[0] < 0 or chosen[-1] > 9:
        raise argparse.ArgumentTypeError(f"classes are 0 to 9, got {text!r}; give a range 0-4 or a list 0,2,5")
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=sorted(SIZES), default="digits")
    parser.add_argument("--out", type=Path, help="the pipeline's folder; default: in the cache, by a digest")
    parser.add_argument("--classes", type=class_range, default=(), help="0-4 or 0,2,5: trained on, or judged")
    parser.add_argument("--invert", action="store_true", help="images with black and white exchanged")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help=f"of {CORES} cores; default: all updates")
    parser.add_argument("--threads", type=int, default=CORES)
    parser.add_argument("--judge", type=Path, metavar="FOLDER", help="judge this pipeline, train none")
    parser.add_argument("--lora", type=Path, help="judge it with this adapter")
    parser.add_argument("--per-class", type=int, default=50, help="images of a class that are judged")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--picture", type=Path, help="draw generated images here")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.judge:
        say_judged(given, given.classes)
        return
    wanted = Wanted(
        dataset=given.dataset, size=SIZES[given.dataset], classes=given.classes, invert=given.invert, seed=given.seed,
        minutes=given.minutes,
    )  # fmt: skip
    print(make(wanted, given.out))


if __name__ == "__main__":
    main()
