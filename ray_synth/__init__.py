"""ray_synth: how many synthetic images per real image should a classifier be trained on?

Public names are loaded when they are first used, so that `import ray_synth` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_ROOMS = {
    "run": "ray_synth.pipeline",
    "estimate_ratio": "ray_synth.estimate",
    "rank_generators": "ray_synth.estimate",
    "Ranked": "ray_synth.bound.result",
    "RatioEstimate": "ray_synth.bound.result",
    "regularized_loss": "ray_synth.classifier.losses",
    "RegularizedLoss": "ray_synth.classifier.losses",
    "kmeans_partition": "ray_synth.partition",
    "Partition": "ray_synth.partition",
    "wasserstein_barycenter": "ray_synth.distill.barycenter",
    "Barycenter": "ray_synth.distill.barycenter",
    "SyntheticRidge": "ray_synth.bound.kernel_ridge",
    "wasserstein_distance": "ray_synth.metrics.transport",
    "frechet_distance": "ray_synth.metrics.fidelity",
    "kernel_distance": "ray_synth.metrics.kernels",
    "mmd2": "ray_synth.metrics.kernels",
    "rapsd": "ray_synth.metrics.spectrum",
    "Spectrum": "ray_synth.metrics.spectrum",
    "lira_scores": "ray_synth.metrics.membership",
    "InputError": "ray_synth.errors",
    "WorkError": "ray_synth.errors",
}
__all__ = ["__version__", *sorted(_ROOMS)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'ray_synth' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return __all__
