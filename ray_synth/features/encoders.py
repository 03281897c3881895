"""The one door to features of images: a spec, a torch module or a function in, an `Encoder` out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_synth.errors import InputError
from ray_synth.features.clip import OpenClip, open_clip_name
from ray_synth.features.packaged import PACKAGES
from ray_synth.features.sscd import load_sscd, missing_sscd
from ray_synth.features.timm_model import load_timm, timm_label

BATCH = 64
USAGE = (
    '"auto", a function or torch module from images to features, "open_clip:MODEL:/path/to/weights.safetensors", '
    '"timm:NAME:/path/to/weights.safetensors", "sscd:NAME:/path/to/NAME.torchscript.pt" or '
    + " or ".join(f'"timm:{name}"' for name in PACKAGES)
)
Images = NDArray[np.uint8]
Features = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoder:
    """uint8 images [n,H,W,C] -> finite features [n,d]: a function with a name.

    module: the torch module that the features come from, if they come from one.
    libraries: whose version the features depend on, beside torch's.

    Raises:
        InputError: (when called) features that are not finite or not [n,d].
    """

    name: str
    function: Callable[[Images], Any]
    module: Any = None
    libraries: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str | None:
        """Of what the features depend on beside the images: the module's name, layers and weights as they are when this
        is first read, its device and the libraries. None without a module: nothing is known of a function.
        """
        return None if self.module is None else _digest(self.name, self.module, self.libraries)

    def __call__(self, images: Images) -> Features:
        features = np.asarray(self.function(images))
        if features.ndim != 2 or len(features) != len(images):
            raise InputError(f"features must come as [{len(images)}, d], got {list(features.shape)}")
        features = features if features.dtype.kind == "f" else features.astype(np.float64)
        if not np.isfinite(features).all():
            bad = int((~np.isfinite(features)).any(axis=1).sum())
            raise InputError(f"features must be finite, got NaN or infinity for {bad} of {len(features)} images")
        return features


def encoder_of(spec: Any, *, device: str | None = None) -> Encoder:
    """An encoder of images, ready to be called in any number of them; torch modules see 64 at a time.

    Args:
        spec: "pixels" (in [0, 1]); "open_clip:MODEL:/path" or "timm:NAME:/path", whose weights are read from that file,
            safely, and nothing is downloaded; "timm:NAME" whose weights an installed package ships
            (`features.packaged`); "sscd:NAME:/path", a TorchScript program, which is run; a torch module, which gets
            float images [B,C,H,W] in [0, 1] on its own device and gives [B,d]; a function, which gets uint8
            [N,H,W,C]; or an Encoder.
        device: of a model that is loaded; default: the GPU where there is one.

    Raises:
        InputError: anything else, a path without a file, a package that is missing, or weights that do not fit.
    """
    if isinstance(spec, Encoder):
        return spec
    if isinstance(spec, str) and spec == "pixels":
        return Encoder(name=spec, function=lambda images: images.reshape(len(images), -1).astype(np.float32) / 255.0)
    if isinstance(spec, str) and spec.startswith(("open_clip:", "timm:", "sscd:")):
        return _from_file(spec, device)
    if hasattr(spec, "parameters") and callable(spec):
        return Encoder(name=_type_name(spec), function=partial(_run_module, spec, _as_floats), module=spec)
    if callable(spec):
        return Encoder(name=getattr(spec, "__qualname__", _type_name(spec)), function=spec)
    raise InputError(f"features must be {USAGE}; got {spec!r}")


def _from_file(spec: str, device: str | None) -> Encoder:
    library, model, *rest = [*spec.split(":", 2), ""]
    path = Path(rest[0])
    packaged = library == "timm" and model and not rest[0]
    if library == "sscd" and not path.is_file():
        raise InputError(missing_sscd(model, rest[0] or "(no path)"))
    if not packaged and (not model or not rest[0] or not path.is_file()):
        raise InputError(
            f"features={spec!r}: no file at {rest[0] or '(no path)'}; type {library}:MODEL:/path/to/weights.safetensors"
        )
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    module: Any
    if library == "sscd":
        name, module, embedded = load_sscd(model, path, device=device)
        return Encoder(name=name, function=embedded, module=module)
    if library == "timm":
        module, on_cpu = load_timm(model, None if packaged else path)
        module = module.eval().to(device)

        def prepare(batch: Images, module_device: Any) -> Any:
            return on_cpu(batch).to(module_device)

        name, libraries = timm_label(model), ("timm",)
    else:
        clip = OpenClip(open_clip_name(model), path, device=device)
        module = clip.visual

        def prepare(batch: Images, module_device: Any) -> Any:
            return clip.prepared(_as_floats(batch, module_device))

        name, libraries = f"{library}:{model}", ("open_clip_torch",)
    function = partial(_run_module, module, prepare)
    return Encoder(name=name, function=function, module=module, libraries=libraries)


def _as_floats(batch: Images, device: Any) -> Any:
    """uint8 [B,H,W,C] -> float [B,C,H,W] in [0, 1]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(batch)).to(device).permute(0, 3, 1, 2).float() / 255.0


def _run_module(module: Any, prepare: Callable[[Images, Any], Any], images: Images) -> Features:
    """Features of a torch module in batches, without gradients and in its own device and mode."""
    import torch

    first = next(iter(module.parameters()), torch.zeros(1))
    training = module.training
    module.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            batch = prepare(images[start : start + BATCH], first.device)
            parts.append(module(batch.to(first.dtype)).float().flatten(1).cpu().numpy())
    module.train(training)
    return np.concatenate(parts)


def _digest(name: str, module: Any, libraries: tuple[str, ...]) -> str:
    import torch

    device = next((parameter.device.type for parameter in module.parameters()), "cpu")
    versions = [f"{library} {metadata.version(library)}" for library in ("torch", *libraries)]
    found = hashlib.sha256("\n".join([name, repr(module), device, *versions]).encode())
    for key, tensor in sorted(module.state_dict().items()):
        found.update(f"\n{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
