"""open_clip from a local weights file: the model, its tokens, its preparation of images. Nothing is downloaded."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ray_synth.errors import InputError
from ray_synth.torch_ops import import_torchvision

BATCH = 64
TINY = "ray-synth-tiny"  # an architecture for a smoke run; its description lies beside this file


def import_open_clip() -> Any:
    """open_clip, which then knows the tiny architecture too. Call in place of the import, in every process."""
    import_torchvision()
    import open_clip

    if TINY not in open_clip.list_models():
        open_clip.add_model_config(Path(__file__).with_name(f"{TINY}.json"))
    return open_clip


@contextmanager
def quiet_log() -> Iterator[None]:
    """open_clip warns of random weights, on the root logger, where that is meant."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def open_clip_name(model: str) -> str:
    return model.replace("/", "-")  # as open_clip writes ViT-B/16


def check_open_clip(model: str, weights: str | Path) -> None:
    """Raise InputError for an architecture that open_clip does not have, or weights that are not there."""
    if not Path(weights).is_file():
        raise InputError(f"open_clip weights not found: no file at {weights}; give a local file")
    known = import_open_clip().list_models()
    if model not in known:
        close = difflib.get_close_matches(model, known, n=3, cutoff=0.5)
        raise InputError(f"open_clip has no model {model!r}; did you mean {', '.join(close) or 'ViT-B-32'}?")


def load_open_clip(model: str, weights: str | Path, *, image_size: int | None = None, device: str = "cpu") -> Any:
    """Both towers with their weights. device: meta for names and shapes alone. image_size: None for the model's own.

    Raises:
        InputError: no such architecture, no file, or weights that do not fit.
    """
    import torch

    check_open_clip(model, weights)
    open_clip = import_open_clip()
    path = str(Path(weights).resolve())  # or a file named as a tag would be taken for it and downloaded
    with quiet_log(), torch.device(device):
        try:
            if device == "meta":
                return open_clip.create_model(model, device=device, force_image_size=image_size)
            return open_clip.create_model(model, pretrained=path, weights_only=True, force_image_size=image_size)
        except Exception as error:  # RuntimeError, KeyError, SafetensorError, UnpicklingError, ...
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(f"open_clip model {model!r} cannot be loaded from {path}: {reason}") from None


def tower_settings(model: str, tower: str) -> Mapping[str, Any]:
    """What open_clip says of an architecture's "vision" or "text" tower."""
    settings: Mapping[str, Any] = import_open_clip().get_model_config(model)[f"{tower}_cfg"]
    return settings


def as_loaded(clip: Any, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tensors of a weights file under the names that open_clip loads them by."""
    import_open_clip()
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    given = convert_state_dict(clip, given)
    if "positional_embedding" in given and not hasattr(clip, "positional_embedding"):
        given = convert_to_custom_text_state_dict(given)
    return given


def tokens_of(model: str, texts: Sequence[str]) -> Any:
    """int64 [n, length of a text]."""
    return import_open_clip().get_tokenizer(model)(list(texts))


def image_statistics(visual: Any) -> tuple[tuple[int, int], tuple[float, ...], tuple[float, ...]]:
    """What an image tower wants of its input in [0, 1]: height and width, mean and standard deviation."""
    size = visual.image_size
    return (size, size) if isinstance(size, int) else tuple(size), visual.image_mean, visual.image_std


class OpenClip:
    """A CLIP model with its two towers.

    Raises:
        InputError: no such architecture, no file, or weights that do not fit.
    """

    def __init__(self, model: str, weights: str | Path, *, device: str = "cpu"):
        import torch

        self.clip = load_open_clip(model, weights).eval().to(device)
        self.name, self.device, self.visual = model, device, self.clip.visual
        self.size, *statistics = image_statistics(self.visual)
        self.mean, self.std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in statistics)

    def prepared(self, batch: Any) -> Any:
        """float [B,C,H,W] in [0, 1] -> what the image tower takes."""
        import torch

        colour = batch.expand(-1, 3, -1, -1) if batch.shape[1] == 1 else batch[:, :3]
        resized = torch.nn.functional.interpolate(colour, self.size, mode="bicubic", antialias=True)
        return (resized.clamp(0, 1) - self.mean) / self.std

    def class_probabilities(self, images: Sequence[np.ndarray], texts: Any) -> np.ndarray:
        """Zero-shot: images, uint8 [H,W,C] of any size, against `text_features` [K,d] -> [N,K]."""
        import torch

        found: list[np.ndarray] = []
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                pixels = [
                    self.prepared(torch.from_numpy(image).to(self.device).permute(2, 0, 1)[None].float() / 255)
                    for image in images[start : start + BATCH]
                ]
                seen = self.clip.encode_image(torch.cat(pixels), normalize=True)
                logits = self.clip.logit_scale.exp() * seen @ texts.T
                found.append(logits.float().softmax(dim=1).cpu().numpy())
        return np.concatenate(found)

    def text_features(self, texts: Sequence[str]) -> Any:
        """Normalised embeddings [K,d]."""
        import torch

        tokens = tokens_of(self.name, texts).to(self.device)
        with torch.inference_mode():
            return torch.cat([self.clip.encode_text(part, normalize=True) for part in tokens.split(256)])
