"""What models and files say of real images: captions for prompts, CLIP embeddings for visual guidance."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ray_synth.config import Captions, VisualGuidance
from ray_synth.data.source import ImageSource
from ray_synth.errors import InputError
from ray_synth.generator.base import Describer, Description, Parents
from ray_synth.generator.pretrained import local_folder
from ray_synth.torch_ops import import_torchvision


@dataclass(frozen=True)
class Captioner(Description):
    """A text of each image, by an image-to-text model of transformers."""

    settings: Captions
    name: ClassVar[str] = "captions"
    part: ClassVar[str] = "captions"

    def describer(self, device: str) -> Describer:
        import_torchvision()
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        settings = self.settings
        assert settings.model is not None  # noqa: S101 - captions of a file are read
        folder = local_folder(settings.model.model, settings.model.revision, key="generator.captions.model")
        with _loading(folder):
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
            model = AutoModelForImageTextToText.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        model.eval().to(device)

        def describe(images: Sequence[np.ndarray]) -> list[str]:
            texts: list[str] = []
            for start in range(0, len(images), settings.batch_size):
                inputs = processor(images=list(images[start : start + settings.batch_size]), return_tensors="pt").to(
                    device
                )
                with torch.inference_mode():
                    tokens = model.generate(**inputs, max_new_tokens=settings.max_new_tokens, do_sample=False)
                texts += [" ".join(text.split()) for text in processor.batch_decode(tokens, skip_special_tokens=True)]
            return texts

        return describe

    def added(self, parents: Parents, values: list[Any]) -> Parents:
        return dataclasses.replace(parents, captions=values)


@dataclass(frozen=True)
class Embedder(Description):
    """A CLIP embedding of each image, or the mean of each class."""

    settings: VisualGuidance
    name: ClassVar[str] = "embeddings"
    part: ClassVar[str] = "visual_guidance"

    def describer(self, device: str) -> Describer:
        import_torchvision()
        import torch
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        encoder = self.settings.encoder
        folder = local_folder(encoder.model, encoder.revision, key="generator.visual_guidance.encoder")
        with _loading(folder):
            processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
            model = CLIPVisionModelWithProjection.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        model.eval().to(device)

        def describe(images: Sequence[np.ndarray]) -> list[list[float]]:
            inputs = processor(images=list(images), return_tensors="pt").to(device)
            with torch.inference_mode():
                seen: list[list[float]] = model(**inputs).image_embeds.float().cpu().tolist()
            return seen

        return describe

    def added(self, parents: Parents, values: list[Any]) -> Parents:
        each = np.asarray(values, dtype=np.float32)
        if self.settings.variant == "paper":
            means = [each[parents.labels == label].mean(axis=0) for label in range(int(parents.labels.max()) + 1)]
            each = np.stack(means)
        return dataclasses.replace(parents, embeddings=each)


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """Around loading a model: one that cannot be loaded is wrong input, whatever transformers raises."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"the model in {folder} cannot be loaded ({reason}); download it again") from None


def read_captions(path: str, images: ImageSource, root: str | None) -> dict[str, str]:
    """The caption of each image, by its key, from metadata.csv or metadata.jsonl (columns file_name and text).

    Raises:
        InputError: no such file, no such columns, or an image without a caption.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        rows = list(csv.DictReader(io.StringIO(text))) if file.suffix == ".csv" else _json_lines(text)
        by_name = {str(row["file_name"]): str(row["text"] or "") for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"generator.captions.path={path} cannot be read: {error}") from None
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"generator.captions.path={path} needs the columns file_name and text in every row ({error}); "
            "write metadata.csv or metadata.jsonl"
        ) from None
    if images.sources is None or root is None:
        raise InputError("generator.captions.path needs images that are files; type --set data.kind=folder")
    found, above = dict[str, str](), Path(root).absolute()
    for key, source in zip(images.keys(), images.sources, strict=True):
        place = Path(source).absolute()
        name = place.relative_to(above).as_posix() if place.is_relative_to(above) else source
        if not by_name.get(name, "").strip():
            raise InputError(f"generator.captions.path={path} has no caption for {name}; add a row for it")
        found[key] = by_name[name]
    return found


def _json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]
