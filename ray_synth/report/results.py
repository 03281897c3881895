"""All that a report is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_synth.bound.result import Ranked, RatioEstimate
from ray_synth.data.source import ImageSource
from ray_synth.partition import RegionReport
from ray_synth.report.decision import Asked, Cost
from ray_synth.report.summary import Summary
from ray_synth.sampling.generation import Generation
from ray_synth.sweep.ledger import Trial

History = Sequence[Mapping[str, float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class RunResults:
    """A run's results, as its stages wrote them.

    metrics: name -> number, as in metrics.json; details: evaluator -> what it says beside them. settings: the
    experiment's, as YAML has them. histories: setting -> what was measured while its first training ran. regions: of
    the best setting. importances: setting -> share of the spread of the trials that it explains; metric: what the sweep
    maximised. adapters: class -> losses while the generator was fine-tuned;
    adapter_samples: step -> a PNG of what the first one makes. ranking: of several generators; the estimate is the
    first one's, the synthetic images those of the best setting's. filters: names of those of the images. cost: seconds
    of images and trainings here. asked: what the commands of another run are made from.
    """

    summary: Summary
    generation: Generation
    estimate: RatioEstimate
    metrics: Mapping[str, float]
    trials: Sequence[Trial]
    real: ImageSource
    synthetic: ImageSource
    settings: Mapping[str, Any]
    histories: Mapping[str, History]
    regions: RegionReport
    importances: Mapping[str, float] = field(default_factory=dict)
    metric: str = "accuracy"
    adapters: Mapping[str, Sequence[Mapping[str, float | None]]] = field(default_factory=dict)
    adapter_samples: Mapping[str, bytes] = field(default_factory=dict)
    ranking: Sequence[Ranked] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost | None = None
    asked: Asked | None = None
    filters: Sequence[str] = ()
