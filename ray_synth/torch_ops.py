"""A torchvision whose compiled part cannot load in, one that can at least be imported out.

torchvision's wheel is a CUDA build. Beside a CPU torch its operators are missing, and `import torchvision` fails, which
takes open_clip, timm and parts of transformers with it. Declaring the two operators that it looks for mends that;
nothing here calls them.
"""

from __future__ import annotations

import importlib.util

_kept: list[object] = []  # the declaration lives as long as this


def import_torchvision() -> None:
    """Call before the first import of anything that imports torchvision, in every process.

    Does nothing where torchvision is missing or its operators load.
    """
    if _kept or importlib.util.find_spec("torchvision") is None:
        return
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
        import torchvision  # noqa: F401
