"""Real and synthetic images in, estimate.json out: the ratio that is predicted before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ray_synth.config import digest
from ray_synth.data.images import first_per_class
from ray_synth.seeding import derive_seed
from ray_synth.stages.generate import SyntheticImages
from ray_synth.stages.inputs import Inputs, Stage

if TYPE_CHECKING:
    from ray_synth.bound.result import RatioEstimate

ESTIMATE = "estimate.json"


class Prediction:
    """The estimate of a run."""

    def __init__(self, inputs: Inputs, images: SyntheticImages):
        self.inputs, self.images = inputs, images

    def stage(self) -> Stage:
        e, pilot = self.inputs.experiment, self.images.pilot
        real_weight = e.classifier.real_weight if e.classifier.weighting == "fixed" else None
        limit = self.images.max_ratio(e.estimate.max_ratio)
        seed = derive_seed("estimate", e.seed) % 2**32

        def work(advance: Callable[[int], None]) -> None:
            from ray_synth.bound.estimator import estimate_ratio

            real, synthetic = self.inputs.splits.train, self.images.all
            rows = first_per_class(synthetic.labels, pilot)
            estimate = estimate_ratio(
                real.images,
                real.labels,
                synthetic.images[rows],
                synthetic.labels[rows],
                max_ratio=limit,
                real_weight=real_weight,
                confidence=e.estimate.confidence,
                seed=seed,
            )
            self.inputs.folder.write_json(ESTIMATE, estimate.to_dict())
            advance(1)

        real, synthetic = self.inputs.real_counts.sum(), pilot.sum()
        stage_digest = digest(
            "estimate",
            e.estimate,
            limit,
            real_weight,
            seed,
            pilot.tolist(),
            self.images.digest,
            self.inputs.digests["train"],
        )
        plan = f"predicting the ratio from {real:,} real and {synthetic:,} synthetic images"
        return Stage(stage_digest, (ESTIMATE,), plan, 1, work)

    def read(self) -> RatioEstimate:
        """estimate.json."""
        from ray_synth.bound.result import RatioEstimate

        return RatioEstimate.from_dict(self.inputs.folder.read_json(ESTIMATE))

    def exists(self) -> bool:
        return self.inputs.folder.exists(ESTIMATE)

    @property
    def ratio(self) -> float:
        """The predicted ratio, of those that the images reach."""
        limit = self.images.max_ratio(self.inputs.experiment.estimate.max_ratio)
        return min(self.read().ratio, limit)
