"""An experiment and its images in, a classifier trained at a setting out: what trials and final trainings share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ray_synth.classifier.mixture import TrainingData, encoded, mix
from ray_synth.classifier.setting import Setting
from ray_synth.classifier.train import Fitted, fit
from ray_synth.config import Experiment
from ray_synth.data.images import ImageSet, synthetic_counts
from ray_synth.nodes import where_gpus_are
from ray_synth.seeding import derive_seed
from ray_synth.training.checkpoint import Checkpoints
from ray_synth.training.team import Team


@dataclass(frozen=True, kw_only=True, eq=False)
class ExperimentData:
    """What all trainings of an experiment share; it lies once in Ray's object store.

    synthetic: as many as the highest ratio needs, or more. features: [n+m,d] of all real and synthetic images, where
    regions are found in those of an encoder.
    """

    experiment: Experiment
    real: ImageSet
    synthetic: ImageSet
    validation: ImageSet
    features: np.ndarray | None = None

    @classmethod
    def of(cls, experiment: Experiment, real: ImageSet, synthetic: ImageSet, validation: ImageSet) -> ExperimentData:
        """An encoder's features are taken once for all trainings. Pixels cost nothing: each training takes its own."""
        features = None
        if experiment.partition.encoder:
            features = np.concatenate(list(where_gpus_are(encoded, [real, synthetic], experiment.partition.features)))
        return cls(experiment=experiment, real=real, synthetic=synthetic, validation=validation, features=features)

    def mixed(self, setting: Setting) -> TrainingData:
        """The training data of a setting, with its regions. Without a synthetic image the real ones are used anyway."""
        e, synthetic_images = self.experiment, synthetic_counts(np.bincount(self.real.labels), setting.synthetic_ratio)
        return mix(
            self.real,
            self.synthetic,
            synthetic_ratio=setting.synthetic_ratio,
            num_clusters=setting.num_clusters,
            partition=e.partition,
            seed=derive_seed("partition", e.seed),
            use_real=e.data.use_real or not synthetic_images.any(),
            online=setting.applied_to(e.classifier).algorithm == "lightweight",
            features=self.features,
        )

    def train(
        self,
        setting: Setting,
        *,
        seed: int,
        team: Team | None = None,
        report: Callable[[float], None] = lambda accuracy: None,
        checkpoints: Checkpoints | None = None,
        diagnosed: bool = False,
    ) -> Fitted:
        """`fit` at a setting: the mix, its regions, and the classifier section with the setting's values."""
        return fit(
            self.mixed(setting),
            self.validation,
            setting.applied_to(self.experiment.classifier),
            seed=seed,
            team=team,
            report=report,
            checkpoints=checkpoints,
            diagnosed=diagnosed,
        )
