"""An open_clip architecture and a local weights file in, features of images and of texts out. Nothing is downloaded."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Sequence
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


def check_open_clip(model: str, weights: str | Path) -> None:
    """Raise InputError for an architecture that open_clip does not have, or weights that are not there."""
    if not Path(weights).is_file():
        raise InputError(f"open_clip weights not found: no file at {weights}; give a local file")
    open_clip = import_open_clip()
    if model not in open_clip.list_models():
        close = difflib.get_close_matches(model, open_clip.list_models(), n=3, cutoff=0.5)
        raise InputError(f"open_clip has no model {model!r}; did you mean {', '.join(close) or 'ViT-B-32'}?")


class OpenClip:
    """A CLIP model with its two towers.

    Raises:
        InputError: no such architecture, no file, or weights that do not fit.
    """

    def __init__(self, model: str, weights: str | Path, *, device: str = "cpu"):
        path = Path(weights).resolve()  # or a file named as a tag would be taken for it and downloaded
        check_open_clip(model, path)
        import torch

        open_clip = import_open_clip()
        try:
            self.clip = open_clip.create_model(model, pretrained=str(path), weights_only=True).eval().to(device)
        except Exception as error:  # open_clip raises RuntimeError, KeyError, SafetensorError, UnpicklingError, ...
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"open_clip model {model!r} cannot be loaded from {path}: {reason}") from None
        self.name, self.device, self.visual = model, device, self.clip.visual
        size = self.visual.image_size
        self.side = size if isinstance(size, int) else size[0]
        self.mean, self.std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1)
            for values in (self.visual.image_mean, self.visual.image_std)
        )

    def prepared(self, batch: Any) -> Any:
        """float [B,C,H,W] in [0, 1] -> what the image tower takes."""
        import torch

        colour = batch.expand(-1, 3, -1, -1) if batch.shape[1] == 1 else batch[:, :3]
        resized = torch.nn.functional.interpolate(colour, (self.side, self.side), mode="bicubic", antialias=True)
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

        open_clip = import_open_clip()
        tokens = open_clip.get_tokenizer(self.name)(list(texts)).to(self.device)
        with torch.inference_mode():
            return torch.cat([self.clip.encode_text(part, normalize=True) for part in tokens.split(256)])
