"""A pretrained model and real images in, a LoRA adapter in the run folder out; a kill loses a few steps.

The base is loaded once and adapted as often as asked: for all classes together, or for one after the other.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from ray_synth.config import DiffusersSettings, Generate
from ray_synth.config.finetune import LoraTraining
from ray_synth.errors import WorkError
from ray_synth.generator import adapter_files
from ray_synth.generator.base import Parents
from ray_synth.generator.latents import Latents
from ray_synth.generator.objectives.denoising import Corruption, denoising_loss
from ray_synth.generator.objectives.mmd import GAMMA, mmd_loss
from ray_synth.generator.prompts import PromptEncoder, filled, with_guidance
from ray_synth.generator.schedulers import scheduler_like
from ray_synth.runs import RunFolder
from ray_synth.seeding import derive_seed
from ray_synth.torch_ops import import_torchvision
from ray_synth.training.checkpoint import FolderCheckpoints, read_tensors, refuse_torn, sealed
from ray_synth.training.events import event_file
from ray_synth.training.loop import Loop, autocast
from ray_synth.training.recipe import Recipe, Schedule
from ray_synth.training.team import Team

import_torchvision()  # diffusers imports it
from diffusers.models.embeddings import ImageProjection  # noqa: E402
from diffusers.training_utils import cast_training_params  # noqa: E402
from diffusers.utils import convert_state_dict_to_diffusers  # noqa: E402
from peft import LoraConfig, LoraModel, get_peft_model_state_dict  # noqa: E402

NAME = "trained"  # of the adapter within the model
TEXT_MODULES = ("q_proj", "k_proj", "v_proj", "out_proj")
MOST_SKIPPED = 10  # steps in a row whose gradients are not finite
RELEASED_SNR = 5.0  # of the MMD term's variant released
AT_ONCE = 8  # images of the base that are sampled together
VALIDATION_TIMES = 4  # of each held-out image


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is noted at a checkpoint: losses, of the batches since the last one and of held-out images."""

    step: int
    loss: float | None
    validation_loss: float | None


def precision_on(device: str, training: LoraTraining) -> str:
    """Of matrix products, on a device of that type."""
    if training.precision != "auto":
        return training.precision
    return "bfloat16" if device == "cuda" else "float32"


def put_adapter(module: Any, layers: Sequence[str], training: LoraTraining) -> LoraModel:
    """A new adapter on these layers of a module, its weights in float32; what takes it off again."""
    config = LoraConfig(
        r=training.r,
        lora_alpha=training.lora_alpha,
        lora_dropout=training.lora_dropout,
        target_modules=list(layers),
        init_lora_weights="gaussian",
    )
    # Not the model's own add_adapter: transformers wants another peft for it than diffusers does.
    tuner = LoraModel(module, config, NAME)
    cast_training_params(module, dtype=torch.float32)
    return tuner


class AdapterTraining:
    """One base model on one device. `train` may be called for one part after the other."""

    def __init__(self, folder: Path, settings: DiffusersSettings, generate: Generate, *, team: Team | None = None):
        """generate: how sample pictures are made. team: of workers that all train each adapter together."""
        from ray_synth.generator.diffusers_pipeline import load_pipeline

        assert settings.finetune is not None  # noqa: S101 - of the caller
        self.team = team or Team()
        self.settings, self.training, self.device = settings, settings.finetune, self.team.device
        self.precision = precision_on(self.device.type, self.training)
        half = self.precision == "bfloat16" and self.device.type == "cuda"
        from_text = settings.model_copy(update={"strength": None})
        self.pipe = load_pipeline(folder, from_text, torch.bfloat16 if half else torch.float32)
        self.pipe.to(self.device)
        self.pipe.vae.to(torch.float32)  # some overflow in less
        for module in (self.pipe.unet, self.pipe.vae, self.pipe.text_encoder):
            module.requires_grad_(False)
        self.size = settings.image_size or self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor
        self.corruption = Corruption.of(self.pipe.scheduler)
        self.generate = generate
        self.pipe.scheduler = scheduler_like(self.pipe.scheduler, generate.scheduler)
        self.pipe.set_progress_bar_config(disable=True)
        if self.training.gradient_checkpointing:
            self.pipe.unet.enable_gradient_checkpointing()

    @torch.no_grad()
    def sampled(self, asked: torch.Tensor, unasked: torch.Tensor, seeds: Sequence[int], form: str) -> Any:
        """What the model makes of text embeddings [B,T,D] and those of nothing. form: pil or latent."""
        generate = self.generate
        with autocast(self.device, self.precision):
            return self.pipe(
                prompt_embeds=asked,
                negative_prompt_embeds=unasked if generate.guidance_scale > 1 else None,
                num_inference_steps=generate.num_inference_steps,
                guidance_scale=generate.guidance_scale,
                height=self.size,
                width=self.size,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type=form,
            ).images

    def train(self, run: RunFolder, parents: Parents, names: Sequence[str], seed: int, part: str = "") -> Iterator[int]:
        """Train one adapter and save it; yields the number of steps done, after a kill from a checkpoint.

        Step t draws from a seed of its own, so a training that was killed ends in the same weights.

        Args:
            names: of all classes. part: the label of the class that is trained on; "": all.

        Raises:
            WorkError: losses or gradients that are not finite, for more than MOST_SKIPPED steps.
            Spoiled: an adapter that is there already and not what was written.
        """
        if run.exists(adapter_files.adapter_file(part)):
            refuse_torn(run, adapter_files.adapter_file(part))
            return
        prior = self._prior(run, names, [int(part)] if part else range(len(names)))
        one = _Adapter(self, parents, names, seed, part, prior)
        try:
            yield from one.trained(run)
        finally:
            one.close()

    def _prior(self, run: RunFolder, names: Sequence[str], labels: Sequence[int]) -> dict[str, torch.Tensor]:
        """Prompt -> latents [k,c,h,w] of what the model makes of it as it is; kept in the run folder."""
        asked = self.training.prior_preservation
        if asked is None:
            return {}
        prompts = PromptEncoder(self.pipe, self.device, keep=True)
        nothing = prompts([""]).expand(asked.images_per_class, -1, -1)
        file = f"{adapter_files.PRIOR}/{{}}.safetensors".format
        asked_of = {label: filled(self.settings.prompt[0], names[label], self.settings) for label in labels}
        for label, prompt in list(asked_of.items())[self.team.rank :: self.team.size]:
            if not run.exists(file(label)):
                seeds = [derive_seed("prior", label, index) for index in range(asked.images_per_class)]
                parts = [
                    self.sampled(prompts([prompt] * len(some)), nothing[: len(some)], some, "latent").float().cpu()
                    for some in (seeds[start : start + AT_ONCE] for start in range(0, len(seeds), AT_ONCE))
                ]
                run.write(file(label), sealed({"latents": torch.cat(parts).contiguous()}))
        self.team.agreed(0.0)  # all are there
        return {prompt: read_tensors(run, file(label))[0]["latents"] for label, prompt in asked_of.items()}


def _held_out(labels: np.ndarray, training: LoraTraining, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the images that are held out, and of those that are trained on; both in rising order."""
    random = np.random.default_rng(derive_seed("adapter held out", seed))
    out: list[int] = []
    for label, number in enumerate(adapter_files.num_held_out(np.bincount(labels), training)):
        out += random.permutation(np.flatnonzero(labels == label))[:number].tolist()
    held = np.zeros(len(labels), dtype=bool)
    held[out] = True
    return np.flatnonzero(held), np.flatnonzero(~held)


class _Adapter:
    """The training of one adapter. prior: prompt -> latents of what the base makes of it."""

    def __init__(
        self,
        base: AdapterTraining,
        parents: Parents,
        names: Sequence[str],
        seed: int,
        part: str,
        prior: Mapping[str, torch.Tensor] = MappingProxyType({}),
    ):
        self.prior = prior
        self.base, self.names, self.seed, self.part = base, names, seed, part
        self.team = base.team
        self.training, pipe = base.training, base.pipe
        rows = np.arange(len(parents.keys)) if part == "" else np.flatnonzero(parents.labels == int(part))
        self.parents, self.rows = parents, rows
        self.held_out, self.trained_on = _held_out(parents.labels[rows], self.training, seed)
        source = parents.source if part == "" else parents.source.take(rows)
        if len(self.trained_on) == 0:
            raise WorkError(f"no image of {names[int(part)] if part else 'any class'} is there to train an adapter on")
        self.size = min(self.training.batch_size, len(self.trained_on))
        self.updates = adapter_files.num_updates(self.training, np.bincount(parents.labels[rows]))
        counts = np.bincount(parents.labels[rows[self.trained_on]])
        self.per_epoch = adapter_files.updates_per_epoch(self.training, counts)
        self.epoch: tuple[int, list[np.ndarray]] = (-1, [])
        self.latents = Latents(pipe.vae, source, base.size, keep=self.training.cache_latents)
        torch.manual_seed(derive_seed("adapter weights", seed, part) % 2**32)
        self.tuners: list[LoraModel] = []
        self.parts = nn.ModuleDict({"unet": self._adapted(pipe.unet, self.training.target_modules)})
        if self.training.text_encoder:
            self.parts["text_encoder"] = self._adapted(pipe.text_encoder, TEXT_MODULES)
        projection = self._projection()
        if projection is not None:
            self.parts["guidance"] = projection
        self.prompts = PromptEncoder(pipe, base.device, keep=not self.training.text_encoder)
        self.seen = np.zeros(0, dtype=np.int64)

    def _adapted(self, module: Any, layers: Sequence[str]) -> Any:
        self.tuners.append(put_adapter(module, layers, self.training))
        return module

    def _projection(self) -> Any:
        """Of the embeddings of real images to tokens, where they are tokens of their own."""
        guidance = self.base.settings.visual_guidance
        if guidance is None or guidance.variant != "paper" or self.parents.embeddings is None:
            return None
        width = self.base.pipe.unet.config.cross_attention_dim
        return ImageProjection(self.parents.embeddings.shape[1], width, self.training.guidance_tokens).to(
            self.base.device
        )

    def close(self) -> None:
        """Leave the base as it was."""
        for tuner in self.tuners:
            tuner.unload()

    # What is learned from.

    def _batch(self, step: int) -> np.ndarray:
        """Places in `rows` of the images of an update: every image once an epoch, in an order that the epoch's seed
        gives."""
        epoch, number = divmod(step, self.per_epoch)
        if epoch != self.epoch[0]:
            self.epoch = (epoch, self._batches(epoch))
        return self.epoch[1][number]

    def _batches(self, epoch: int) -> list[np.ndarray]:
        random = np.random.default_rng(derive_seed("adapter epoch", self.seed, self.part, epoch))
        size, places = self.size, [self.trained_on]
        if self.training.batches == "class":
            labels = self.parents.labels[self.rows[self.trained_on]]
            places = [self.trained_on[labels == label] for label in np.unique(labels)]
        orders = [random.permutation(members) for members in places]
        batches = [order[start : start + size] for order in orders for start in range(0, len(order), size)]
        return [batches[i] for i in random.permutation(len(batches))] if len(orders) > 1 else batches

    def _conditions(self, places: np.ndarray, random: torch.Generator, mine: torch.Tensor) -> torch.Tensor:
        """Text embeddings [b,T,D] of those of a batch that are mine, with the visual guidance; a share of both left
        out."""
        dropped = torch.rand(len(places), generator=random) < self.training.prompt_dropout
        picks = torch.randint(0, len(self.base.settings.prompt), (len(places),), generator=random)
        places, dropped = places[mine.numpy()], dropped[mine]
        prompts = self._prompts(places, picks[mine].tolist())
        asked = ["" if gone else prompt for prompt, gone in zip(prompts, dropped.tolist(), strict=True)]
        return self._guided(self.prompts(asked), self.rows[places], dropped)

    def _prompts(self, places: np.ndarray, picks: Sequence[int]) -> list[str]:
        """Of images, each by one of the templates."""
        settings, captions, rows = self.base.settings, self.parents.captions, self.rows[places].tolist()
        return [
            filled(
                settings.prompt[pick],
                self.names[self.parents.labels[row]],
                settings,
                captions[row] if captions is not None else "",
            )
            for row, pick in zip(rows, picks, strict=True)
        ]

    def _guided(self, text: torch.Tensor, rows: np.ndarray, dropped: torch.Tensor) -> torch.Tensor:
        guidance, embeddings = self.base.settings.visual_guidance, self.parents.embeddings
        if guidance is None or embeddings is None:
            return text
        at = self.parents.labels[rows] if guidance.variant == "paper" else rows
        seen = torch.from_numpy(embeddings[at]).to(text)
        seen = self.parts["guidance"](seen).to(text) if "guidance" in self.parts else seen[:, None]
        return with_guidance(text, seen, ~dropped, variant=guidance.variant)

    # The loss.

    def loss(self, step: int) -> torch.Tensor:
        random = torch.Generator().manual_seed(derive_seed("adapter step", self.seed, self.part, step))
        places = self._batch(step)
        self.seen, mine = places, self.team.share(len(places))
        if self.training.lora_dropout:
            torch.manual_seed(derive_seed("adapter dropout", self.seed, self.part, step) % 2**32)
        shape, corruption, mmd = (len(places), *self.latents.shape), self.base.corruption, self.training.mmd
        clean = self.latents.draw(torch.from_numpy(places)[mine], torch.randn(shape, generator=random)[mine])
        noise = torch.randn(shape, generator=random)[mine].to(clean)
        times = torch.randint(0, corruption.times, (len(places),), generator=random)
        with autocast(self.base.device, self.base.precision):
            residual = self._residual(clean, noise, times[mine], self._conditions(places, random, mine))
        residual = self.team.gathered(residual)[: len(places)]
        found = denoising_loss(residual, corruption.weights(times, self.training.min_snr_gamma))
        if mmd is not None:
            gamma = GAMMA[mmd.variant] if mmd.gamma is None else mmd.gamma
            errors = corruption.noise_error(residual, times)
            weights = (RELEASED_SNR / corruption.snr(times)).clamp(max=1)
            found = found + gamma * mmd_loss(errors, weights, variant=mmd.variant)
        if self.prior and self.training.prior_preservation is not None:
            found = found + self.training.prior_preservation.weight * self._prior_loss(len(places), random)
        return found

    def _prior_loss(self, count: int, random: torch.Generator) -> torch.Tensor:
        """The denoising loss of images of the base, of classes in no order."""
        prompts = list(self.prior)
        picks = torch.randint(0, len(prompts), (count,), generator=random).tolist()
        of_each = len(self.prior[prompts[0]])
        which = torch.randint(0, of_each, (count,), generator=random).tolist()
        mine = self.team.share(count)
        clean = torch.stack([self.prior[prompts[picks[one]]][which[one]] for one in mine.tolist()])
        clean = clean.to(self.base.device)
        noise = torch.randn((count, *clean.shape[1:]), generator=random)[mine].to(clean)
        times = torch.randint(0, self.base.corruption.times, (count,), generator=random)
        asked = [prompts[picks[one]] for one in mine.tolist()]
        with autocast(self.base.device, self.base.precision):
            residual = self._residual(clean, noise, times[mine], self.prompts(asked))
        residual = self.team.gathered(residual)[:count]
        return denoising_loss(residual, self.base.corruption.weights(times, self.training.min_snr_gamma))

    def _residual(
        self, clean: torch.Tensor, noise: torch.Tensor, times: torch.Tensor, text: torch.Tensor
    ) -> torch.Tensor:
        corruption, device = self.base.corruption, self.base.device
        unet = self.parts["unet"]
        noisy = corruption.noisy(clean, noise, times).to(text.dtype)
        predicted = unet(noisy, times.to(device), encoder_hidden_states=text).sample
        residual: torch.Tensor = corruption.target(clean, noise, times).float() - predicted.float()
        return residual

    @torch.no_grad()
    def validation_loss(self) -> float | None:
        """The denoising loss of held-out images, every time with the same noise."""
        if not len(self.held_out):
            return None
        self.parts.eval()
        random = torch.Generator().manual_seed(derive_seed("adapter validation", self.seed, self.part))
        total = 0.0
        for start in range(0, len(self.held_out), self.size):
            places = self.held_out[start : start + self.size]
            for number in range(VALIDATION_TIMES):
                shape = (len(places), *self.latents.shape)
                clean = self.latents.draw(torch.from_numpy(places), torch.randn(shape, generator=random))
                noise = torch.randn(shape, generator=random).to(clean)
                low, high = (self.base.corruption.times * n // VALIDATION_TIMES for n in (number, number + 1))
                times = torch.randint(low, high, (len(places),), generator=random)
                with autocast(self.base.device, self.base.precision):
                    text = self._conditions(places, random, torch.arange(len(places)))
                    residual = self._residual(clean, noise, times, text)
                total += float(denoising_loss(residual, torch.ones(len(places)))) * len(places)
        self.parts.train()
        mean = total / (VALIDATION_TIMES * len(self.held_out))
        return mean if math.isfinite(mean) else None

    @torch.no_grad()
    def _shown(self) -> Image.Image | None:
        """Pictures of classes in turn, side by side; every time from the same noise."""
        count = min(self.training.samples, len(self.rows))
        if not count:
            return None
        self.parts.eval()
        places = np.linspace(0, len(self.rows) - 1, count).round().astype(np.int64)
        asked, unasked = (
            self._guided(self.prompts(prompts), self.rows[places], torch.full((count,), gone))
            for prompts, gone in ((self._prompts(places, [0] * count), False), ([""] * count, True))
        )
        pictures = [
            picture
            for start in range(0, count, AT_ONCE)
            for picture in self.base.sampled(
                asked[start : start + AT_ONCE],
                unasked[start : start + AT_ONCE],
                range(start, min(start + AT_ONCE, count)),
                "pil",
            )
        ]
        self.parts.train()
        sheet = Image.new("RGB", (count * self.base.size, self.base.size))
        for number, picture in enumerate(pictures):
            sheet.paste(picture, (number * self.base.size, 0))
        return sheet

    # The training.

    def trained(self, run: RunFolder) -> Iterator[int]:
        training, updates = self.training, self.updates
        recipe = Recipe(
            updates=updates,
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
            schedule=Schedule(name=training.schedule, warmup=min(training.warmup_steps, updates // 2)),
            clip_norm=1.0,
            ema_decay=training.ema_decay,
            fused=False,
            most_skipped=MOST_SKIPPED,
        )
        loop = Loop(
            self.parts,
            recipe,
            team=self.team,
            gathers=True,
            in_parts=True,
            diverged="the adapter's loss is {loss} at step {done}",
        )
        checkpoints = FolderCheckpoints(run, adapter_files.checkpoint_file(self.part))
        yield loop.resume(checkpoints)
        history = self._history(run, loop.done)
        kept_at = range(training.checkpoint_steps, updates, training.checkpoint_steps)
        losses: list[torch.Tensor] = []

        def noted(step: int) -> torch.Tensor:
            found = self.loss(step)
            losses.append(found.detach())
            return found

        try:
            for done in loop.run(noted, kept_at=kept_at, checkpoints=checkpoints):
                if done in kept_at or done == updates:
                    if self.team.rank == 0:
                        with loop.averaged():
                            record = Record(step=done, loss=_mean(losses), validation_loss=self.validation_loss())
                            _tell(run, self.part, record, self._shown())
                        history.append(record)
                        run.write_json(adapter_files.history_file(self.part), [asdict(each) for each in history])
                    losses.clear()
                yield done
        except WorkError as error:
            raise WorkError(self._told(error, max((n for n in kept_at if n < loop.done), default=0))) from None
        if loop.average is not None:
            loop.average.copy_to(self.parts)
        if self.team.rank == 0:
            self._save(run)
            checkpoints.remove()

    def _told(self, error: WorkError, last: int) -> str:
        keys = [self.parents.keys[self.rows[place]] for place in self.seen[:4].tolist()]
        return (
            f"{error}, at images {', '.join(keys)}{', ...' if len(self.seen) > 4 else ''}; the last good checkpoint is "
            f"of step {last}; lower generator.finetune.learning_rate, or type --set "
            "generator.finetune.precision=float32"
        )

    def _history(self, run: RunFolder, done: int) -> list[Record]:
        file = adapter_files.history_file(self.part)
        if not done or not run.exists(file):
            return []
        return [record for record in run.read_record(file, tuple[Record, ...]) if record.step <= done]

    def _save(self, run: RunFolder) -> None:
        tensors: dict[str, torch.Tensor] = {}
        metadata: dict[str, Any] = {}
        for name in ("unet", "text_encoder"):
            if name not in self.parts:
                continue
            module: Any = self.parts[name]
            layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(module, adapter_name=NAME))
            # diffusers takes the prefix away where transformers (from 5.6) has none.
            within = "text_model." if name == "text_encoder" and not hasattr(module, "text_model") else ""
            tensors |= {
                f"{name}.{within}{key}": value.detach().float().cpu().contiguous() for key, value in layers.items()
            }
            said = module.peft_config[NAME].to_dict()
            metadata |= {
                f"{name}.{key}": sorted(value) if isinstance(value, set) else value for key, value in said.items()
            }
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise WorkError("the adapter's weights are not finite; lower generator.finetune.learning_rate")
        if "guidance" in self.parts:
            state = self.parts["guidance"].state_dict()
            adapter_files.write_guidance(run, self.part, {name: t.detach().cpu() for name, t in state.items()})
        adapter_files.write_adapter(run, self.part, tensors, metadata)


def _tell(run: RunFolder, part: str, record: Record, pictures: Image.Image | None) -> None:
    """Leave pictures in the run folder, and for TensorBoard what there is to see at a checkpoint."""
    if pictures is not None:
        data = io.BytesIO()
        pictures.save(data, format="png")
        run.write(adapter_files.sample_file(part, record.step), data.getvalue())

    def write(writer: Any) -> None:
        for name in ("loss", "validation_loss"):
            if (value := getattr(record, name)) is not None:
                writer.add_scalar(name, value, record.step)
        if pictures is not None:
            writer.add_image("samples", np.asarray(pictures), record.step, dataformats="HWC")

    run.write(adapter_files.events_file(part, record.step), event_file(write))


def _mean(losses: Sequence[torch.Tensor]) -> float | None:
    """Of those that are finite: the others' updates were left out."""
    found = torch.stack(list(losses))
    finite = found[found.isfinite()]
    return float(finite.mean()) if len(finite) else None
