"""What fine-tuning a generator is worth, and what our loop costs beside a bare one.

    python -m tests.benchmarks.adapters adaptation --base DIR --target digits     # base: of half the classes, inverted
    python -m tests.benchmarks.adapters ablation --base DIR --seeds 3 --table FILE # Real-Fake's Table 2
    python -m tests.benchmarks.adapters loop          # against peft and diffusers by hand, paired
    python -m tests.benchmarks.adapters pool          # ten adapters by one actor and by two

`python -m tests.benchmarks.small_stable_diffusion` makes the bases.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ray_synth.torch_ops import import_torchvision

import_torchvision()
import torch  # noqa: E402
from torch import nn  # noqa: E402

from ray_synth.classifier.mixture import TrainingData  # noqa: E402
from ray_synth.classifier.predict import logits_of  # noqa: E402
from ray_synth.classifier.train import fit  # noqa: E402
from ray_synth.config import Classifier, Generate, StableDiffusion  # noqa: E402
from ray_synth.data.images import ImageSet  # noqa: E402
from ray_synth.generator.adapter_files import adapter_file  # noqa: E402
from ray_synth.generator.base import Parents, generator_of  # noqa: E402
from ray_synth.generator.lora import AdapterTraining  # noqa: E402
from ray_synth.generator.pretrained import file_shapes, weight_shapes  # noqa: E402
from ray_synth.generator.tiny import tiny_pipeline  # noqa: E402
from ray_synth.runs import RunFolder  # noqa: E402
from ray_synth.seeding import derive_seed  # noqa: E402

SHOTS = 16
# Real-Fake's Table 2: (fine-tuned, distribution matching, visual guidance, latent prior).
ROWS = [
    (False, False, False, False), (True, False, False, False), (True, True, False, False), (True, False, True, False),
    (True, True, True, False), (False, False, False, True), (True, False, False, True), (True, True, False, True),
    (True, False, True, True), (True, True, True, True),
]  # fmt: skip


def fitted(base: Path, settings: StableDiffusion, parents: Parents, folder: RunFolder, seed: int = 0) -> Iterator[int]:
    training = AdapterTraining(base, settings, Generate())
    yield from training.train(folder, parents, parents.source.class_names, seed)


def sampled(
    settings: StableDiffusion, parents: Parents, folder: RunFolder, per_class: int, seed: int, steps: int = 25
) -> ImageSet:
    """`per_class` images of every class, as a run makes them."""
    names, shape = parents.source.class_names, parents.source.shape
    generate = Generate(num_inference_steps=steps, guidance_scale=2.0)
    kind = generator_of(settings, generate, class_names=names, shape=shape)
    sampler, images = kind.sampler(folder, parents, "cpu"), list[np.ndarray]()
    for label in range(len(names)):
        said = kind.conditions(label, range(per_class), parents)
        seeds = [derive_seed("adapters", seed, label, index) for index in range(per_class)]
        columns = {"label": [label] * per_class, "class_name": [names[label]] * per_class, "seed": seeds}
        images += sampler({**columns, **said})["image"]
    labels = np.repeat(np.arange(len(names)), per_class)
    return ImageSet(pixels=np.stack(images), labels=labels, class_names=names)


def shots(train: ImageSet, number: int, seed: int) -> ImageSet:
    random = np.random.default_rng(derive_seed("adapters", "shots", seed))
    rows = [random.permutation(np.flatnonzero(train.labels == c))[:number] for c in range(len(train.class_names))]
    return train.take(np.concatenate(rows))


# --- adaptation


def adaptation(given: argparse.Namespace) -> None:
    """FID and label fidelity of a base before and after it is adapted to real images that it was not made for."""
    from tests.benchmarks.small_stable_diffusion import SIZES, judge_of, judged, real_images

    train, _ = real_images(given.target, SIZES[given.target].side)
    judge = judge_of(given.target)
    print(f"judge: {judge.accuracy:.3f} on real test images; {given.shots} real images a class, {given.steps} steps")
    for seed in range(given.first_seed, given.seeds):
        parents, folder = Parents.of(shots(train, given.shots, seed)), RunFolder(tempfile.mkdtemp())
        plain = StableDiffusion(model=str(given.base))
        training = {
            "steps": given.steps, "r": given.rank, "lora_alpha": given.rank, "learning_rate": given.rate,
            "batch_size": 32, "checkpoint_steps": given.steps, "samples": 0, "prompt_dropout": 0.1,
            "text_encoder": given.text_encoder, "target_modules": given.modules, "ema_decay": 0.99,
        }  # fmt: skip
        adapted = StableDiffusion(model=str(given.base), finetune=training)  # type: ignore[arg-type]
        before = judged(sampled(plain, parents, folder, given.per_class, seed), judge)
        begin = time.monotonic()
        for _ in fitted(given.base, adapted, parents, folder, seed):
            pass
        seconds = time.monotonic() - begin
        after = judged(sampled(adapted, parents, folder, given.per_class, seed), judge)
        parts = [weight_shapes(given.base / part) for part in ("unet", "text_encoder")]
        all_of = sum(int(np.prod(shape)) for part in parts for shape in part.values())
        trained = sum(int(np.prod(shape)) for shape in file_shapes(Path(folder.root, adapter_file(""))).values())
        print(
            f"seed {seed}: FID {before.fid:.2f} -> {after.fid:.2f} ({after.fid / before.fid:.2f}), label fidelity "
            f"{before.fidelity:.3f} -> {after.fidelity:.3f}, with {100 * trained / all_of:.1f} % of the weights, in "
            f"{seconds:.0f} s",
            flush=True,
        )


# --- Real-Fake's ablation


def vision_encoder(train: ImageSet, folder: Path, width: int) -> Path:
    """A small CLIPVisionModelWithProjection that tells the classes of other real images apart: no published one is at
    hand."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    if folder.exists():
        return folder
    torch.manual_seed(0)
    side = train.shape[0]
    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, projection_dim=width, num_hidden_layers=3, num_attention_heads=4,
        image_size=side, patch_size=4,
    )  # fmt: skip
    model, head = CLIPVisionModelWithProjection(config), nn.Linear(width, len(train.class_names))
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-3)
    processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size=side)
    pixels = processor(images=list(train.pixels), return_tensors="pt")["pixel_values"]
    labels = torch.from_numpy(train.labels)
    for _ in range(400):
        rows = torch.randint(0, len(labels), (64,))
        loss = nn.functional.cross_entropy(head(model(pixel_values=pixels[rows]).image_embeds), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def ablation(given: argparse.Namespace) -> None:
    """Test accuracy of a classifier of synthetic images alone, whose generator has each of the paper's parts or not."""
    from ray_synth.generator.describe import Embedder
    from tests.benchmarks.small_stable_diffusion import SIZES, judge_of, judged, real_images

    train, test = real_images(given.target, SIZES[given.target].side)
    encoder = vision_encoder(train, given.base.parent / f"{given.base.name}-vision-encoder", 32)
    judge, fields = (
        judge_of(given.target),
        ["seed", "finetuned", "mmd", "guidance", "prior", "accuracy", "fid", "fidelity"],
    )
    done = set()
    if given.table.exists():
        with given.table.open(newline="") as file:
            done = {tuple(row[name] for name in fields[:5]) for row in csv.DictReader(file)}
    for seed, row in itertools.product(range(given.seeds), ROWS):
        key = (str(seed), *map(str, row))
        if key in done:
            continue
        tuned, mmd, guided, prior = row
        parents = Parents.of(shots(train, given.shots, seed))
        training = {
            "steps": given.steps, "r": given.rank, "lora_alpha": given.rank, "learning_rate": given.rate,
            "batch_size": 32, "checkpoint_steps": given.steps, "samples": 0, "prompt_dropout": 0.1,
            "mmd": {} if mmd else None,
        }  # fmt: skip
        settings = StableDiffusion(
            model=str(given.base),
            finetune=training if tuned else None,  # type: ignore[arg-type]
            strength=0.75 if prior else None,
            visual_guidance={"encoder": {"model": str(encoder)}} if guided else None,  # type: ignore[arg-type]
        )
        if settings.visual_guidance is not None:
            describer = Embedder(settings.visual_guidance)
            parents = describer.added(parents, describer.describer("cpu")(list(parents.source.images())))
        folder = RunFolder(tempfile.mkdtemp())
        if tuned:
            for _ in fitted(given.base, settings, parents, folder, seed):
                pass
        images = sampled(settings, parents, folder, given.per_class, seed)
        found, accuracy = judged(images, judge), trained_on(images, test, seed)
        values = [*key, f"{accuracy:.4f}", f"{found.fid:.3f}", f"{found.fidelity:.4f}"]
        fresh = not given.table.exists()
        with given.table.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([fields, values] if fresh else [values])
        print(", ".join(f"{name} {value}" for name, value in zip(fields, values, strict=True)), flush=True)
    say_ablation(given.table)


def trained_on(images: ImageSet, test: ImageSet, seed: int) -> float:
    settings = Classifier(model="compact_cnn", updates=400, batch_size=64, learning_rate=1e-3, evaluations=1)
    data = TrainingData.of_real(images)
    network = fit(data, test.take(np.arange(64)), settings, seed=seed).model
    return float((logits_of(network, test).argmax(1).numpy() == test.labels).mean())


def say_ablation(table: Path) -> None:
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    print("| fine-tuned | MMD | guidance | prior | accuracy | FID | label fidelity |\n|---|---|---|---|---|---|---|")
    for row in ROWS:
        mine = [
            r for r in rows if tuple(r[n] for n in ("finetuned", "mmd", "guidance", "prior")) == tuple(map(str, row))
        ]
        if mine:
            cells = []
            for name in ("accuracy", "fid", "fidelity"):
                values = [float(r[name]) for r in mine]
                cells.append(
                    f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"
                )
            print(f"| {' | '.join('x' if each else '' for each in row)} | {' | '.join(cells)} |")


# --- the loop


def photographs(number: int, side: int) -> ImageSet:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (number, side, side, 3), dtype=np.uint8)
    return ImageSet(pixels=pixels, labels=np.arange(number) % 2, class_names=("cat", "dog"))


def an_eighth(folder: Path) -> Path:
    """Stable Diffusion 1.5 with an eighth of its channels, and random weights: images of 64, latents of 8 pixels."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

    tiny_pipeline(folder, width=96)
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(40, 80, 160, 160), cross_attention_dim=96, attention_head_dim=8,
        norm_num_groups=8,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64, 64), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, norm_num_groups=8, sample_size=64,
    )  # fmt: skip
    pipe.register_modules(unet=unet, vae=vae)
    pipe.save_pretrained(folder)
    return folder


def bare(base: Path, images: ImageSet, steps: int, batch: int, *, latents: torch.Tensor | None = None) -> Iterator[int]:
    """The loop of diffusers' example for LoRA, in as few lines. latents: made before, else made at each step."""
    from diffusers import DDPMScheduler, StableDiffusionPipeline
    from peft import LoraConfig

    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.requires_grad_(False)
    pipe.unet.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    trained = [parameter for parameter in pipe.unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    pixels = torch.from_numpy(images.pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    prompts = [f"a photo of a {images.class_names[label]}" for label in images.labels]
    texts = {prompt: pipe.encode_prompt(prompt, "cpu", 1, False)[0][0].detach() for prompt in set(prompts)}
    pipe.unet.train()
    order: list[int] = []
    for step in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(images)).tolist()
        rows, order = order[:batch], order[batch:]
        if latents is None:
            with torch.no_grad():
                clean = pipe.vae.encode(pixels[rows]).latent_dist.sample() * pipe.vae.config.scaling_factor
        else:
            clean = latents[rows]
        noise, times = torch.randn_like(clean), torch.randint(0, 1000, (batch,))
        text = torch.stack([texts[prompts[row]] for row in rows])
        predicted = pipe.unet(schedule.add_noise(clean, noise, times), times, encoder_hidden_states=text).sample
        loss = nn.functional.mse_loss(predicted.float(), noise.float())
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield step + 1


def ours(base: Path, images: ImageSet, steps: int, batch: int) -> Iterator[int]:
    training = {
        "steps": steps, "batch_size": batch, "checkpoint_steps": 10**6, "samples": 0, "validation_fraction": 0.0,
    }  # fmt: skip
    settings = StableDiffusion(model=str(base), finetune=training)  # type: ignore[arg-type]
    yield from fitted(base, settings, Parents.of(images), RunFolder(tempfile.mkdtemp()))


def whole(base: Path, images: ImageSet, steps: int, batch: int, *, keep: bool) -> float:
    """Seconds of a training, looking at its images for the first time included, loading the model not."""
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    training = {
        "steps": steps, "batch_size": batch, "checkpoint_steps": 10**6, "samples": 0, "validation_fraction": 0.0,
        "cache_latents": keep,
    }  # fmt: skip
    settings = StableDiffusion(model=str(base), finetune=training)  # type: ignore[arg-type]
    loaded, parents = AdapterTraining(base, settings, Generate()), Parents.of(images)
    begin = clock()
    for _ in loaded.train(RunFolder(tempfile.mkdtemp()), parents, images.class_names, 0):
        pass
    return clock() - begin


def clock() -> float:
    """Seconds of this process on a CPU, which other work beside it does not change much; on a GPU seconds that pass."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.monotonic()


def seconds_of(steps: Iterator[int], warm: int) -> float:
    """Of a step, after some that are not counted."""
    begin, last = 0.0, 0
    for last in steps:
        if last == warm:
            begin = clock()
    return (clock() - begin) / (last - warm)


def loop(given: argparse.Namespace) -> None:
    """Ratios of seconds a step, paired: ours and the bare loop's, both with latents that are there; and of whole
    trainings of three epochs, ours with latents kept and made at each step."""
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    base = an_eighth(Path(tempfile.mkdtemp()) / "sd")
    images, batch = photographs(64, 64), 8
    latents = torch.randn(64, 4, 8, 8)
    ratios, kept = [], []
    for number in range(given.pairs):
        each = {}
        for name in ("ours", "bare") if number % 2 else ("bare", "ours"):
            if name == "ours":
                each[name] = seconds_of(ours(base, images, given.steps, batch), 5)
            else:
                each[name] = seconds_of(bare(base, images, given.steps, batch, latents=latents), 5)
        ratios.append(each["ours"] / each["bare"])
        times = {keep: whole(base, images, 3 * len(images) // batch, batch, keep=keep) for keep in (True, False)}
        kept.append(times[False] / times[True])
        print(f"ours / bare {ratios[-1]:.3f}; three epochs without / with kept latents {kept[-1]:.2f}", flush=True)
    print(f"ours / bare: median {statistics.median(ratios):.3f} of {len(ratios)} pairs")
    print(f"three epochs, latents made at each step / kept: median {statistics.median(kept):.2f}")


def pool(given: argparse.Namespace) -> None:
    """Ten adapters, by two actors and by one, in turn."""
    from ray_synth.runtime import ray_session
    from ray_synth.sampling.fitting import fit_several

    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    base = an_eighth(Path(tempfile.mkdtemp()) / "sd")
    images = photographs(100, 64)
    images = ImageSet(pixels=images.pixels, labels=np.arange(100) % 10, class_names=tuple(map(str, range(10))))
    training = {
        "steps": given.steps, "batch_size": 8, "checkpoint_steps": 10**6, "samples": 0, "validation_fraction": 0.0,
        "adapters": "class",
    }  # fmt: skip
    settings = StableDiffusion(model=str(base), finetune=training)  # type: ignore[arg-type]
    kind = generator_of(settings, Generate(), class_names=images.class_names, shape=images.shape)
    ratios = []
    with ray_session():

        def seconds_of(actors: int, parts: int) -> float:
            begin = time.monotonic()
            arguments = (tempfile.mkdtemp(), kind, 0)
            for _ in fit_several(arguments, list(map(str, range(parts))), images, None, pool=(actors, actors)):
                pass
            return time.monotonic() - begin

        seconds_of(1, 1)  # warms up
        for number in range(given.pairs):
            seconds = {actors: seconds_of(actors, 10) for actors in ((2, 1) if number % 2 else (1, 2))}
            ratios.append(seconds[2] / seconds[1])
            print(f"two actors {seconds[2]:.1f} s, one {seconds[1]:.1f} s: {ratios[-1]:.2f}", flush=True)
    print(f"two / one: median {statistics.median(ratios):.2f} of {len(ratios)} pairs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for name, function in (("adaptation", adaptation), ("ablation", ablation)):
        verb = verbs.add_parser(name)
        verb.set_defaults(function=function)
        verb.add_argument("--base", type=Path, required=True)
        verb.add_argument("--target", default="digits")
        verb.add_argument("--seeds", type=int, default=3)
        verb.add_argument("--shots", type=int, default=SHOTS, help="real images a class")
        verb.add_argument("--steps", type=int, default=400)
        verb.add_argument("--rank", type=int, default=4)
        verb.add_argument("--rate", type=float, default=2e-3)
        verb.add_argument("--per-class", type=int, default=50, help="images that are judged")
        verb.add_argument("--threads", type=int, default=2)
        if name == "ablation":
            verb.add_argument(
                "--table", type=Path, required=True, help="a CSV file; what stands there is not done again"
            )
        else:
            verb.add_argument("--first-seed", type=int, default=0)
            verb.add_argument("--text-encoder", action="store_true")
            verb.add_argument("--modules", nargs="+", default=["to_q", "to_k", "to_v", "to_out.0"])
    for name, function, steps in (("loop", loop, 60), ("pool", pool, 100)):
        verb = verbs.add_parser(name)
        verb.set_defaults(function=function)
        verb.add_argument("--pairs", type=int, default=5)
        verb.add_argument("--steps", type=int, default=steps)
        verb.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.function(given)


if __name__ == "__main__":
    main()
