"""A TorchScript file of SSCD in, an embedding of images in which copies lie near each other out.

TorchScript is a program: torch runs it in an interpreter of its own, which knows tensors and no Python, but tensors
can be read from files and written to them. It is run where a word names it and nowhere else. Its hash is in its name.
"""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ray_synth.errors import InputError

BATCH = 32
SIDE = 288  # both of an image's: its authors recommend a square, or this for the shorter side
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLACE = "https://dl.fbaipublicfiles.com/sscd-copy-detection/{name}.torchscript.pt"
MODEL = "sscd_disc_mixup"  # of Pizzi et al. (2022), the one that they recommend
PUBLISHED = (
    "sscd_disc_blur", "sscd_disc_advanced", MODEL, "sscd_disc_large",
    "sscd_imagenet_blur", "sscd_imagenet_advanced", "sscd_imagenet_mixup",
)  # fmt: skip


def missing_sscd(name: str, path: str) -> str:
    """Where to get a file that is not there, which must not be downloaded unasked."""
    known = name if name in PUBLISHED else MODEL
    return (
        f"no SSCD model at {path}; download {PLACE.format(name=known)} (for research, CC-BY-NC 4.0), and type "
        f"sscd:{known}:/path/to/{known}.torchscript.pt"
    )


def load_sscd(name: str, path: Path, *, device: str) -> tuple[str, Any, Callable[[np.ndarray], Any]]:
    """What it is called, its program, and uint8 images [n,H,W,C] -> [n,d].

    Raises:
        InputError: no TorchScript.
    """
    import torch

    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not _is_torchscript(path):
        raise InputError(
            f"{path} is no TorchScript; of SSCD's files take the one that ends in .torchscript.pt: "
            f"{PLACE.format(name=name if name in PUBLISHED else MODEL)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch has another format for new models
            program = torch.jit.load(str(path), map_location=device)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path} cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, STD))

    def embedded(images: np.ndarray) -> np.ndarray:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                block = np.ascontiguousarray(images[start : start + BATCH])
                pixels = torch.from_numpy(block).to(device).permute(0, 3, 1, 2).float() / 255
                colour = pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels[:, :3]
                resized = torch.nn.functional.interpolate(colour, (SIDE, SIDE), mode="bilinear", antialias=True)
                parts.append(program((resized - mean) / std).float().flatten(1).cpu().numpy())
        return np.concatenate(parts)

    return f"sscd:{name} at {SIDE} pixels (sha256 {found[:16]})", program, embedded


def _is_torchscript(path: Path) -> bool:
    """An archive with a program in it. Weights alone, of the same suffix, are a pickle."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
