"""Real and synthetic images in, estimate.json out: the ratio that is predicted before anything is trained.

Of several generators it is the best-ranked one's; ranking.json has all.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ray_synth.bound.curve import AGAIN_BELOW, AGAIN_SECONDS
from ray_synth.config import digest, encoder_in
from ray_synth.data.images import first_per_class, side_by_side
from ray_synth.hardware.measure import Measure
from ray_synth.seeding import derive_seed
from ray_synth.stages.generate import Generate
from ray_synth.stages.stage import Stage
from ray_synth.tasks import Task, Tasks

if TYPE_CHECKING:
    from ray_synth.bound.result import Ranked, RatioEstimate
    from ray_synth.data.source import ImageSource
    from ray_synth.hardware.gpus import Gpu
    from ray_synth.stages.bench import Bench

ESTIMATE, RANKING = "estimate.json", "ranking.json"
IMAGES, POWER = 20_000, 0.27  # seconds grow as this power of the images; the table's are of so many


class Estimate(Stage):
    """The estimate of a run."""

    name = "estimate"
    purpose = "Predict the best synthetic ratio before training"
    needs = (Generate,)
    reads = ()  # settings say what an image is
    keeps = (ESTIMATE, RANKING)

    @property
    def limit(self) -> float:
        """The largest ratio that is considered, of those that the images reach."""
        return self.of(Generate).max_ratio(self.experiment.estimate.max_ratio)

    @property
    def _real_weight(self) -> float | None:
        classifier = self.experiment.classifier
        return classifier.real_weight if classifier.weighting == "fixed" else None

    @property
    def _metric(self) -> str:
        return self.experiment.estimate.metric or self.experiment.sweep.metric

    @property
    def _seed(self) -> int:
        return derive_seed("estimate", self.experiment.seed) % 2**32

    @property
    def digest(self) -> str:
        from ray_synth.sampling.digests import encoder_files

        images = self.of(Generate)
        return digest(
            "estimate",
            self.experiment.estimate,
            self.limit,
            self._real_weight,
            self._seed,
            images.pilot.tolist(),
            images.pilot_real.tolist(),
            encoder_files(self.inputs.seen_through),
            images.trained_on,
            self.experiment.data.allocation,
            self.experiment.data.use_real,
            self._metric,
            self.inputs.digests["train"],
            *images.candidates,
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        return (ESTIMATE, RANKING) if self.of(Generate).candidates else (ESTIMATE,)

    @property
    def plan(self) -> str:
        real, all_real, synthetic = self._real, int(self.inputs.real_counts.sum()), self._pilot
        of_all = "" if real == all_real else f" of {all_real:,}"
        ranked = len(self.of(Generate).candidates)
        of_several = f" of {ranked} generators, which are ranked" if ranked else ""
        return f"predicting the ratio from {real:,}{of_all} real and {synthetic:,} synthetic images{of_several}"

    def tasks(self) -> Sequence[Tasks]:
        return (self.of(Generate).reading_pilot(), Tasks(tasks=(Task(name=self.name, takes={"estimate": 1}),)))

    @property
    def caveats(self) -> Sequence[str]:
        if self.complete:
            return ()
        unknown = f"the predicted ratio is not known yet: {self.ratio:.3g} stands for it"
        several = len(self.of(Generate).candidates) > 1
        if several or encoder_in(self.inputs.seen_through) or self._real >= AGAIN_BELOW:
            return (unknown,)
        return unknown, f"where features cannot tell, the estimate takes {AGAIN_SECONDS} seconds of a core more"

    def run(self, advance: Callable[[int], None]) -> None:
        images = self.of(Generate)
        real, pilots = self.inputs.splits.train, images.pilot_images
        parts = side_by_side(len(pilots), images.generators)
        ranked = self._ranked(
            real.take(first_per_class(real.labels, images.pilot_real)),  # drawn at random: splits are shuffled
            {name: pilots.take(parts[name]) for name in images.candidates} or {"synthetic": pilots},
            num_real=len(real),
            seed=self._seed,
            reporter=self.inputs.reporter,
        )
        if images.candidates:
            whole = [{**vars(each), "estimate": each.estimate.to_dict()} for each in ranked]
            self.folder.write_json(RANKING, whole)
        self.folder.write_json(ESTIMATE, ranked[0].estimate.to_dict())
        advance(1)

    def _ranked(
        self, real: ImageSource, synthetic: Mapping[str, ImageSource], *, num_real: int, seed: int, **settings: Any
    ) -> tuple[Ranked, ...]:
        """Of these images, which stand for `num_real` real ones, as the experiment asks for it.

        synthetic: by generator; settings: more of `rank_sources`.
        """
        from ray_synth.estimate import rank_sources

        e = self.experiment
        return rank_sources(
            real,
            synthetic,
            features=self.inputs.seen_through,
            num_real=num_real,
            max_ratio=self.limit,
            real_weight=self._real_weight,
            use_real=e.data.use_real,
            allocation=e.data.allocation,
            metric=self._metric,
            confidence=e.estimate.confidence,
            seed=seed,
            **settings,
        )

    # What it found.

    def result(self) -> RatioEstimate:
        """estimate.json."""
        from ray_synth.bound.result import RatioEstimate

        return self.folder.read_record(ESTIMATE, RatioEstimate)

    def ranking(self) -> tuple[Ranked, ...]:
        """ranking.json: the generators, the most probable first; empty where there is one."""
        from ray_synth.bound.result import Ranked

        return self.folder.read_record(RANKING, tuple[Ranked, ...]) if self.of(Generate).candidates else ()

    @property
    def generator(self) -> str | None:
        """The best-ranked of several; while that is not known, the first stands for it."""
        candidates = self.of(Generate).candidates
        if not candidates:
            return None
        return self.ranking()[0].name if self.complete else str(candidates[0])

    def show(self) -> None:
        from ray_synth.tables import print_estimate, print_generators

        ranking = self.ranking()
        if ranking:
            print_generators([(each.name, each.probability, each.estimate) for each in ranking])
        print_estimate(self.result())

    def summary(self) -> Mapping[str, Any]:
        estimate, ranking = self.result(), self.ranking()
        said = {"predicted_ratio": self.ratio, "interval": list(estimate.interval), "verdict": estimate.verdict}
        if not ranking:
            return said
        return said | {
            "predicted_generator": ranking[0].name,
            "generators": {each.name: each.probability for each in ranking},
        }

    @property
    def expected_ratio(self) -> float:
        """The predicted ratio; while it is not known, one in the middle of log(1 + ratio) stands for it."""
        return self.result().ratio if self.complete else math.sqrt(1 + self.limit) - 1

    @property
    def ratio(self) -> float:
        """The predicted ratio, of those that the images reach."""
        return min(self.expected_ratio, self.limit)

    # What it takes.

    @functools.cached_property
    def _pilot(self) -> int:
        """Synthetic images that are looked at."""
        return self.of(Generate).pilot_total

    @functools.cached_property
    def _real(self) -> int:
        """Real images that are looked at."""
        return int(self.of(Generate).pilot_real.sum())

    def measured_with(self) -> Mapping[str, str | int]:
        encoder = encoder_in(self.inputs.seen_through)
        return {
            "real images of the estimate": self._real,
            "synthetic images of the estimate": self._pilot,
            "model for the estimate's features": encoder[0] if encoder else "auto",
        }

    def published(self, gpu: Gpu) -> Mapping[str, Measure]:
        size = max(0.3, ((self._real + self._pilot) / IMAGES) ** POWER)
        size *= 2 if encoder_in(self.inputs.seen_through) else 1  # linear layers on all features: as much as the rest
        return {"estimate": gpu.overheads["estimate"].times(size)}

    def calibrate(self, bench: Bench) -> None:
        if not bench.wants("estimate"):
            return
        from ray_synth.stages.bench import HERE, MOST_REAL, MOST_SYNTHETIC, some, stand_in

        begin = time.monotonic()
        real = some(self.inputs.splits.train, min(MOST_REAL, self._real))
        synthetic = stand_in(real, max(1, min(self._pilot, MOST_SYNTHETIC) // len(self.inputs.class_names)))
        self._ranked(real, {"synthetic": synthetic}, num_real=len(real), seed=0, again=False)
        more = (self._real + self._pilot) / (len(real) + len(synthetic))
        origin = HERE if more <= 1 else f"measured here on {1 / more:.0%} of the images, drawn out by their number"
        bench.note("estimate", (time.monotonic() - begin) * more**POWER, 0.15 + 0.1 * math.log(more), origin)
