"""The kind `diffusers`, also under the name `stable_diffusion`: a text-to-image pipeline that somebody else trained."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ray_synth.config import (
    SAMPLING,
    Diffusers,
    DiffusersSettings,
    GeneratorSettings,
    LoraTraining,
    StableDiffusion,
    digest,
    said,
)
from ray_synth.config.finetune import PriorPreservation
from ray_synth.config.yaml import as_yaml
from ray_synth.data.source import ImageSource
from ray_synth.errors import InputError, did_you_mean
from ray_synth.generator import tiny, tiny_pipelines
from ray_synth.generator.adapter_files import adapter_file, checkpoint_file
from ray_synth.generator.base import (
    Batch,
    Description,
    FitMemory,
    Fitter,
    Generator,
    Origin,
    Parents,
    Sampler,
    register,
)
from ray_synth.generator.describe import Captioner, Embedder, read_captions
from ray_synth.generator.pretrained import (
    adapts_text,
    check_lora,
    check_pipeline,
    content_digest,
    has_safetensors,
    license_of,
    local_folder,
    lora_digest,
    pipeline_digest,
    pipeline_row,
    read_config,
    weight_shapes,
)
from ray_synth.generator.prompts import filled
from ray_synth.hardware.gpus import Card
from ray_synth.runs import RunFolder
from ray_synth.text_to_image import STABLE_DIFFUSION, STABLE_DIFFUSION_3, Pipeline, row_in

if TYPE_CHECKING:
    from ray_synth.training.team import Team

# Settings of files, whose content is in `Origin.parts`, and those of a fit that its result does not depend on.
FILES: dict[str, Any] = {"captions": {"path", "model", "batch_size"}, "visual_guidance": {"encoder", "untrained"}}
WATCHING = {"preset", "cache_latents", "gradient_checkpointing", "checkpoint_steps", "samples", "num_workers"}


@register
class DiffusersGenerator(Generator[DiffusersSettings]):
    """Text-to-image, or image-to-image with `strength`, with LoRAs and CLIP embeddings of real images where asked."""

    Settings: ClassVar[type[GeneratorSettings]] = Diffusers
    slow_on_cpu = True

    def check(self) -> list[str]:
        from ray_synth.generator.diffusers_pipeline import check_takes
        from ray_synth.torch_ops import import_torchvision

        settings, folder = self.settings, self._pipeline()
        check_pipeline(folder, allow_pickle=settings.allow_pickle)
        import_torchvision()
        check_takes(folder, settings)
        self._check_scheduler(folder)
        steps = self.generate.num_inference_steps
        if settings.strength is not None and int(settings.strength * steps) < 1:
            raise InputError(
                f"generator.strength={settings.strength:g} leaves no step of generate.num_inference_steps={steps}; "
                "raise one of them"
            )
        self._check_loras(folder)
        self._check_targets(folder)
        unknown = sorted(set(settings.class_words) - set(self.class_names))
        if unknown:
            raise InputError(
                f"generator.class_words has no class {unknown[0]!r}; the classes are {', '.join(self.class_names[:10])}"
            )
        if settings.visual_guidance is not None:
            self._check_encoder(folder)
        if settings.captions is not None and settings.captions.model is not None:
            model = settings.captions.model
            place = local_folder(model.model, model.revision, key="generator.captions.model")
            read_config(place / "config.json", place)
            has_safetensors(place, allow_pickle=False, flag=False)
        templates = (*settings.prompt, settings.negative_prompt)
        return self._long_prompts([filled(t, name, settings) for name in self.class_names for t in templates])

    def _pipeline(self) -> Path:
        return local_folder(self.settings.model, self.settings.revision, allow_pickle=self.settings.allow_pickle)

    @property
    def row(self) -> Pipeline:
        """The row of the model, as far as it is on this machine; else one that the scheduler fits."""
        folder = Diffusers.folder_of(self.settings)
        found = row_in(folder) if folder is not None else None
        return found or (STABLE_DIFFUSION_3 if self.generate.scheduler.startswith("FlowMatch") else STABLE_DIFFUSION)

    def _check_scheduler(self, folder: Path) -> None:
        import diffusers

        from ray_synth.generator.schedulers import check_steps, scheduler_like

        saved = read_config(folder / "scheduler" / "scheduler_config.json", folder)
        kind = getattr(diffusers, saved["_class_name"], None)
        if not isinstance(kind, type) or not issubclass(kind, diffusers.SchedulerMixin):
            raise InputError(f"{folder}/scheduler is of a kind that diffusers does not have: {saved['_class_name']}")
        try:
            scheduler: Any = kind
            given = scheduler.from_config(saved)
            row = pipeline_row(folder)
            scheduler = scheduler_like(given, self.generate.scheduler, flow=row.is_flow)
            check_steps(scheduler, self.generate.num_inference_steps, gives_sigmas=row.gives_sigmas)
            if self.settings.finetune is not None:
                from ray_synth.generator.objectives.denoising import Corruption

                Corruption.of(given)
        except InputError:
            raise
        except Exception as error:  # whatever a scheduler makes of settings that are not its own
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(
                f"{folder}/scheduler/scheduler_config.json describes no scheduler that works with "
                f"generate.scheduler={self.generate.scheduler} and {self.generate.num_inference_steps} steps "
                f"({reason}); choose another generate.scheduler, or download the model again"
            ) from None

    def _check_targets(self, folder: Path) -> None:
        """Each layer that is to be adapted must be one of the denoiser's."""
        if self.settings.finetune is None:
            return
        denoiser = pipeline_row(folder).denoiser
        layers = [name.removesuffix(".weight") for name in weight_shapes(folder / denoiser)]
        for target in self._training.target_modules if layers else ():
            if not any(layer == target or layer.endswith(f".{target}") for layer in layers):
                known = sorted({layer.rsplit(".", 1)[-1] for layer in layers if not layer.endswith(".bias")} - {"0"})
                raise InputError(
                    f"generator.finetune.target_modules: the {denoiser} in {folder} has no layer {target!r}; "
                    f"{did_you_mean(target, ['to_out.0', *known])}"
                )

    def _lora_paths(self) -> list[str]:
        from ray_synth.generator.diffusers_pipeline import lora_paths

        return lora_paths(self.settings.lora, self.class_names) if self.settings.lora is not None else []

    def _check_loras(self, folder: Path) -> None:
        settings = self.settings
        for path in self._lora_paths():
            check_lora(Path(path), folder, allow_pickle=settings.allow_pickle)
            if settings.compile and "{" in str(settings.lora) and adapts_text(Path(path)):
                raise InputError(
                    f"generator.lora={path} adapts the text encoder, and such adapters cannot be swapped in a compiled "
                    "model; type --set generator.compile=false"
                )

    def _check_encoder(self, folder: Path) -> None:
        """The embedding of an image must be as wide as one of the text, to stand beside it."""
        settings_of = self.settings
        assert settings_of.visual_guidance is not None  # noqa: S101 - of the caller
        encoder = settings_of.visual_guidance.encoder
        has_safetensors(self._encoder_folder(), allow_pickle=False, flag=False)
        width = self._encoder_width()
        wanted = read_config(folder / "unet" / "config.json", folder).get("cross_attention_dim", 1280)
        projected = settings_of.finetune is not None and settings_of.visual_guidance.variant == "paper"
        if width != wanted and not projected:
            raise InputError(
                f"generator.visual_guidance.encoder={encoder.model} gives embeddings of width {width}, the model's "
                f"text embeddings have {wanted}; take the CLIP that the model was made with (ViT-L/14 for Stable "
                "Diffusion 1.x, ViT-H/14 for 2.x)"
            )

    def _encoder_folder(self) -> Path:
        assert self.settings.visual_guidance is not None  # noqa: S101 - of the caller
        encoder = self.settings.visual_guidance.encoder
        return local_folder(encoder.model, encoder.revision, key="generator.visual_guidance.encoder")

    def _encoder_width(self) -> Any:
        """Of an image's embedding, as its settings say."""
        place = self._encoder_folder()
        config = read_config(place / "config.json", place)
        vision = config.get("vision_config")
        return config.get("projection_dim", vision.get("projection_dim") if isinstance(vision, dict) else None)

    def _long_prompts(self, prompts: Sequence[str]) -> list[str]:
        """A note on prompts of which the text encoder will not read the end, or none."""
        from ray_synth.generator.diffusers_pipeline import cut_prompts

        cut = cut_prompts(self._pipeline(), list(dict.fromkeys(prompts)))
        if not cut:
            return []
        prompt, lost = cut[0]
        return [f"{len(cut)} prompt(s) are longer than the text encoder reads; of {prompt!r} it will not see {lost!r}"]

    def origin(self, trained: str) -> Origin:
        """A local folder's revision is the hash of its contents."""
        settings, folder = self.settings, self._pipeline()
        local = Path(settings.model).is_dir()
        revision = pipeline_digest(folder) if local else str(settings.revision)
        parts = {"model": revision}
        for path in self._lora_paths():
            parts[f"lora/{Path(path).name}/{len(parts)}"] = lora_digest(Path(path))
        others: dict[str, Any] = {
            "captions": settings.captions and settings.captions.model,
            "visual_guidance": settings.visual_guidance and settings.visual_guidance.encoder,
        }
        for name, model in others.items():
            if model is not None:
                place = local_folder(model.model, model.revision)
                parts[name] = content_digest(place) if Path(model.model).is_dir() else str(model.revision)
        if settings.captions is not None and settings.captions.path is not None:
            parts["captions"] = content_digest(Path(settings.captions.path))
        if settings.finetune is not None:
            parts["adapters"] = digest("adapters", trained, {name: parts[name] for name in sorted(parts)})
        return Origin(
            model_id=folder.name if local else settings.model,
            model_revision=revision,
            model_license=license_of(folder),
            parts=parts,
        )

    def pixel_settings(self) -> dict[str, Any]:
        without: dict[str, Any] = {
            "model": True, "revision": True, "lora": True, "compile": True, "channels_last": True,
            "allow_pickle": True, "finetune": True, **FILES,
        }  # fmt: skip
        given = {**self.row.given, **self.row.call}
        # Under the older name, which digests have held from the beginning.
        return {
            "kind": "stable_diffusion",
            **said(self.settings, without=without),
            **({"given": given} if given else {}),
        }

    # Fitting.

    @property
    def _training(self) -> LoraTraining:
        assert self.settings.finetune is not None  # noqa: S101 - asked of those that train alone
        return self.settings.finetune

    def fit_parts(self, counts: np.ndarray) -> Mapping[str, int]:
        """An adapter for all classes, or one for each."""
        from ray_synth.generator.adapter_files import num_updates

        if self.settings.finetune is None:
            return {}
        if self._training.adapters == "dataset":
            return {"": num_updates(self._training, counts)}
        alone = np.diag(counts)
        return {str(label): num_updates(self._training, alone[label]) for label in range(len(counts))}

    def fit_file(self, part: str) -> str:
        return adapter_file(part)

    def fit_files(self, part: str) -> Sequence[str]:
        return checkpoint_file(part), adapter_file(part)

    def fit_settings(self) -> dict[str, Any]:
        """What adapters follow from, beside the model and the images."""
        kept = {"prompt", "dataset", "class_words", "captions", "visual_guidance", "image_size", "finetune"}
        shown = {"kind": "stable_diffusion", **said(self.settings, only=kept, without=FILES | {"finetune": WATCHING})}
        if self.settings.finetune is not None and self.settings.finetune.prior_preservation is not None:
            shown["prior"] = said(self.generate, only=set(SAMPLING))
        return shown

    @property
    def fit_batch(self) -> int:
        return self._training.batch_size

    def fit_memory(self, counts: np.ndarray, card: Card) -> FitMemory | None:
        """Once the model is on this machine."""
        folder, training = Diffusers.folder_of(self.settings), self.settings.finetune
        if folder is None or training is None:
            return None
        from ray_synth.generator.adapter_files import num_held_out
        from ray_synth.generator.memory import AdapterMemory, Sizes

        alone = [counts] if training.adapters == "dataset" else [row for row in np.diag(counts) if row.any()]
        images = max(int((each - num_held_out(each, training)).sum()) for each in alone)
        captioned = any("{caption}" in template for template in self.settings.prompt)
        classes = images if captioned else len(counts) if training.adapters == "dataset" else 1
        guidance = self.settings.visual_guidance
        projected = guidance is not None and guidance.variant == "paper"
        sizes = Sizes(
            images=images,
            prompts=classes * len(self.settings.prompt),
            guided=self.guided,
            guidance=self._encoder_width() if projected else 0,
        )
        try:
            return AdapterMemory(folder, self.settings, sizes, fused=card.fuses_bfloat16)
        except InputError:
            raise
        except Exception:  # a version of torch may lack something on its device `meta`, and training goes on without
            return None

    @property
    def fit_workers(self) -> int:
        return self.settings.finetune.num_workers if self.settings.finetune is not None else 1

    @property
    def fits_parents(self) -> bool:
        return self.settings.captions is not None or self.settings.visual_guidance is not None

    def with_fit_steps(self, steps: int) -> Generator[DiffusersSettings]:
        watching: dict[str, Any] = {"steps": steps, "samples": 0, "validation_fraction": 0.0}
        if self._training.prior_preservation is not None:
            watching["prior_preservation"] = PriorPreservation(images_per_class=1)
        timed = self._training.model_copy(update=watching)
        return self._changed(self.settings.model_copy(update={"finetune": timed}), self.generate)

    def fitter(self, folder: RunFolder, images: ImageSource, seed: int, parents: Parents | None, team: Team) -> Fitter:
        from ray_synth.generator.lora import AdapterTraining

        training = AdapterTraining(self._pipeline(), self.settings, self.generate, team=team)
        looked_at = Parents.of(images) if parents is None else parents
        return lambda part: training.train(folder, looked_at, self.class_names, seed, part)

    def cards(self, origin: Origin, images: str) -> Mapping[str, str]:
        """A model card, as hubs read it."""
        from ray_synth.generator.adapter_files import CARD

        part = "" if self._training.adapters == "dataset" else "0"
        facts = {
            "base_model": origin.model_id,
            "base_model_revision": origin.model_revision,
            "library_name": "diffusers",
            "license": origin.model_license or "unknown",
            "tags": ["lora", "text-to-image", "diffusers"],
        }
        text = CARD.format(
            facts=as_yaml(facts, allow_unicode=True),
            model=origin.model_id,
            images=images,
            name=Path(adapter_file(part)).name,
            settings=as_yaml(self.fit_settings(), allow_unicode=True),
        )
        return {str(Path(adapter_file(part)).parent / "README.md"): text}

    def fit_done(self, folder: RunFolder, part: str = "") -> int:
        if not folder.exists(checkpoint_file(part)):
            return 0
        from ray_synth.training.checkpoint import updates_done

        return updates_done(folder.read(checkpoint_file(part)))

    @property
    def uses_real_images(self) -> bool:
        return self.settings.uses_real_images

    @property
    def class_words(self) -> tuple[str, ...]:
        return tuple(self.settings.class_words.get(name, name) for name in self.class_names)

    def captions(self, real: ImageSource, root: str | None) -> dict[str, str] | None:
        asked = self.settings.captions
        return read_captions(asked.path, real, root) if asked is not None and asked.path is not None else None

    def descriptions(self) -> list[Description]:
        found: list[Description] = []
        if self.settings.captions is not None and self.settings.captions.model is not None:
            found.append(Captioner(self.settings.captions))
        if self.settings.visual_guidance is not None:
            found.append(Embedder(self.settings.visual_guidance))
        return found

    def described_notes(self, parents: Parents) -> list[str]:
        """On every prompt that real images with their captions give rise to."""
        if parents.captions is None:
            return []
        return self._long_prompts(
            [
                filled(template, self.class_names[label], self.settings, caption)
                for label, caption in zip(parents.labels.tolist(), parents.captions, strict=True)
                for template in self.settings.prompt
            ]
        )

    def conditions(self, label: int, indices: Sequence[int], parents: Parents | None) -> Batch:
        settings, name = self.settings, self.class_names[label]
        rows: list[int | None] = [None] * len(indices)
        if settings.uses_parents and parents is not None:
            rows = [parents.row_of(label, index) for index in indices]
        captions = [""] * len(indices)
        if parents is not None and parents.captions is not None:
            captions = [parents.captions[row] for row in rows if row is not None]
        return {
            "prompt": [
                filled(settings.prompt[index % len(settings.prompt)], name, settings, caption)
                for index, caption in zip(indices, captions, strict=True)
            ],
            "negative_prompt": [filled(settings.negative_prompt, name, settings)] * len(indices),
            "parent": rows,
        }

    def sampler(self, folder: RunFolder, parents: Parents | None, device: str) -> Sampler:
        from ray_synth.generator.adapter_files import trained_adapters
        from ray_synth.generator.diffusers_pipeline import DiffusersSampler

        settings = self.settings
        if settings.finetune is not None:
            settings = settings.model_copy(
                update={"lora": trained_adapters(folder, settings.finetune, len(self.class_names))}
            )
        return DiffusersSampler(
            self._pipeline(),
            settings,
            self.generate,
            class_names=self.class_names,
            parents=parents,
            device=device,
        )

    def with_steps(self, steps: int) -> Generator[DiffusersSettings]:
        timed = super().with_steps(steps)
        return timed._changed(self.settings.model_copy(update={"compile": False}), timed.generate)

    @property
    def pads_batches(self) -> bool:
        return self.settings.compile

    @property
    def share_of_steps(self) -> float:
        return self.settings.strength or 1.0

    @property
    def image_side(self) -> int:
        return self.settings.image_size or self.row.size

    @property
    def guided(self) -> bool:
        return self.generate.guidance_scale > self.row.guided_above

    @property
    def _twin(self) -> str:
        """The folder of its tiny model."""
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", self.row.name.removesuffix("Pipeline"))
        return words.lower()

    def small(self, models: Path) -> dict[str, Any]:
        raw = self.settings.model_dump() | {
            "model": str(models / self._twin),
            "revision": None,
            "image_size": max(tiny_pipelines.SIDE, self.row.multiple),
            "class_words": {},
            "lora": None,
            "finetune": self._small_training(),
            "dtype": "auto",
            "compile": False,
            "allow_pickle": False,
        }
        if self.settings.captions is not None:
            raw["captions"] = {"model": {"model": str(models / "captioner")}, "max_new_tokens": 4}
        if self.settings.visual_guidance is not None:
            raw["visual_guidance"]["encoder"] = {"model": str(models / "vision-encoder")}
        return raw

    def _small_training(self) -> dict[str, Any] | None:
        if self.settings.finetune is None:
            return None
        small = {
            "steps": 4,
            "batch_size": min(4, self._training.batch_size),
            "checkpoint_steps": 2,
            "r": 2,
            "num_workers": 1,
        }
        return self._training.model_dump() | small

    def tiny_models(self) -> dict[str, Callable[[Path], object]]:
        found: dict[str, Callable[[Path], object]] = {
            self._twin: functools.partial(tiny_pipelines.tiny_of, self.row.name)
        }
        if self.settings.captions is not None:
            found["captioner"] = tiny.tiny_captioner
        if self.settings.visual_guidance is not None:
            found["vision-encoder"] = tiny.tiny_vision_encoder
        return found


@register
class StableDiffusionGenerator(DiffusersGenerator):
    """The same under its older name."""

    Settings = StableDiffusion
