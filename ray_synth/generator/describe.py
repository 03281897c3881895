"""Real images in, a text or an embedding of each out: captions for prompts, CLIP image embeddings for visual guidance.

Made by pretrained models in a pool of actors (Ray Data), in pieces that are files, so that a kill loses little.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_synth.config import Captions, StableDiffusion, VisualGuidance, digest
from ray_synth.data.images import ImageSet
from ray_synth.errors import InputError
from ray_synth.generator.conditions import Parents
from ray_synth.generator.pool import over_pool
from ray_synth.generator.pretrained import local_folder
from ray_synth.runs import RunFolder
from ray_synth.torch_ops import import_torchvision

PIECE = 64  # images per file

Describer = Callable[[Sequence[np.ndarray]], list[Any]]  # uint8 [H,W,3] each -> text or vector each


def described_parents(
    folder: RunFolder, parents: Parents, settings: StableDiffusion, given: dict[str, str] | None, models: dict[str, str]
) -> Parents:
    """Parents with the captions and embeddings that the settings ask for. Ray must be up where a model makes them.

    given: key of a real image -> its caption, where a file has them; models: the revisions of the models.
    """
    if settings.captions is not None:
        if given is not None:
            captions = [given[key] for key in parents.keys]
        else:
            captions = _described(folder, "captions", settings.captions, parents, models["captions"])
        parents = dataclasses.replace(parents, captions=captions)
    if settings.visual_guidance is not None:
        seen = _described(folder, "embeddings", settings.visual_guidance, parents, models["visual_guidance"])
        each = np.asarray(seen, dtype=np.float32)
        if settings.visual_guidance.variant == "paper":
            means = [each[parents.labels == label].mean(axis=0) for label in range(int(parents.labels.max()) + 1)]
            each = np.stack(means)
        parents = dataclasses.replace(parents, embeddings=each)
    return parents


def read_captions(path: str, images: ImageSet, root: str | None) -> dict[str, str]:
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
    found: dict[str, str] = {}
    for key, source in zip(images.keys(), images.sources, strict=True):
        name = Path(source).relative_to(root).as_posix() if Path(source).is_relative_to(root) else source
        if not by_name.get(name, "").strip():
            raise InputError(f"generator.captions.path={path} has no caption for {name}; add a row for it")
        found[key] = by_name[name]
    return found


def _json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _described(
    folder: RunFolder, name: str, settings: Captions | VisualGuidance, parents: Parents, revision: str
) -> list[Any]:
    """What the model says of every parent, in their order; pieces that exist are read."""
    place = f"generator/{name}/{digest(name, settings, revision, list(parents.keys))[:12]}"
    pieces = [f"{start:08d}.parquet" for start in range(0, len(parents.keys), PIECE)]
    there = set(folder.list(place))
    missing = [{"start": int(piece[:8])} for piece in pieces if piece not in there]
    if missing:
        for _ in over_pool(missing, DescribePieces, (folder.absolute_url, place, settings), parents):
            pass
    tables = [pq.read_table(io.BytesIO(folder.read(f"{place}/{piece}"))) for piece in pieces]
    return [value for table in tables for value in table["value"].to_pylist()]


class DescribePieces:
    """A Ray Data actor: loads the model once, then turns ranges of parents into files."""

    def __init__(self, url: str, place: str, settings: Captions | VisualGuidance, parents: Parents, device: str):
        self.folder, self.place, self.parents = RunFolder(url), place, parents
        self.describe: Describer = (
            _captioner(settings, device) if isinstance(settings, Captions) else _embedder(settings, device)
        )

    def __call__(self, piece: dict[str, int]) -> int:
        start = piece["start"]
        images = [_colour(image) for image in self.parents.images[start : start + PIECE]]
        buffer = io.BytesIO()
        pq.write_table(pa.table({"value": self.describe(images)}), buffer)
        self.folder.write(f"{self.place}/{start:08d}.parquet", buffer.getvalue())
        return len(images)


def _colour(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def _captioner(settings: Captions, device: str) -> Describer:
    import_torchvision()
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    assert settings.model is not None  # noqa: S101 - `described_parents` reads files otherwise
    folder = local_folder(settings.model.model, settings.model.revision, key="generator.captions.model")
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    model = AutoModelForImageTextToText.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    model.eval().to(device)

    def describe(images: Sequence[np.ndarray]) -> list[str]:
        texts: list[str] = []
        for start in range(0, len(images), settings.batch_size):
            inputs = processor(images=list(images[start : start + settings.batch_size]), return_tensors="pt").to(device)
            with torch.inference_mode():
                tokens = model.generate(**inputs, max_new_tokens=settings.max_new_tokens, do_sample=False)
            texts += [" ".join(text.split()) for text in processor.batch_decode(tokens, skip_special_tokens=True)]
        return texts

    return describe


def _embedder(settings: VisualGuidance, device: str) -> Describer:
    import_torchvision()
    import torch
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    folder = local_folder(settings.encoder.model, settings.encoder.revision, key="generator.visual_guidance.encoder")
    processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
    model = CLIPVisionModelWithProjection.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    model.eval().to(device)

    def describe(images: Sequence[np.ndarray]) -> list[list[float]]:
        inputs = processor(images=list(images), return_tensors="pt").to(device)
        with torch.inference_mode():
            seen: list[list[float]] = model(**inputs).image_embeds.float().cpu().tolist()
        return seen

    return describe
