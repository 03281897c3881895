"""What torch needs around it: a torchvision that can be imported, and an allocator that does not give memory back.

torchvision's wheel is a CUDA build. Beside a CPU torch its operators are missing, and `import torchvision` fails, which
takes open_clip, timm and parts of transformers with it. Declaring the two operators that it looks for mends that;
nothing here calls them.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt(3)

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


def keep_freed_memory() -> None:
    """Let the C allocator keep what torch frees on a CPU, for the next step of the same size.

    As it comes, glibc hands every large buffer back to the kernel, and takes it again page by page: 60,000 page faults
    for a batch of a small diffusion model, a fifth of its time. Does nothing where the allocator is another one.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(M_TRIM_THRESHOLD, 256 * 2**20)
