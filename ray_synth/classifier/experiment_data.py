"""An experiment with its images: what its trials and final trainings share, and what one of them is given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ray_synth.classifier.mixture import TrainingData, mix
from ray_synth.classifier.regions import ALONE, SHARED, encoded
from ray_synth.classifier.setting import Setting
from ray_synth.config import Classifier, Experiment
from ray_synth.data.images import side_by_side
from ray_synth.data.source import ImageSource
from ray_synth.nodes import on_gpu_node
from ray_synth.seeding import derive_seed
from ray_synth.training.team import Team


@dataclass(frozen=True, kw_only=True, eq=False)
class ExperimentData:
    """What all trainings of an experiment share; it lies once in Ray's object store.

    synthetic: as many as the highest ratio needs, or more; of several generators one after the other, as many of each
    class by each. features: [n+m,d] of all real and synthetic images, where
    regions are found in those of an encoder.
    """

    experiment: Experiment
    real: ImageSource
    synthetic: ImageSource
    validation: ImageSource
    features: np.ndarray | None = None

    @classmethod
    def of(
        cls, experiment: Experiment, real: ImageSource, synthetic: ImageSource, validation: ImageSource
    ) -> ExperimentData:
        """An encoder's features are taken once for all trainings, of up to SHARED images. Of more each training takes
        its own, a block at a time; so it does of pixels, which cost nothing."""
        features = None
        if experiment.partition.encoder and len(real) + len(synthetic) <= SHARED:
            features = np.concatenate(list(on_gpu_node(encoded, [real, synthetic], experiment.partition.features)))
        return cls(experiment=experiment, real=real, synthetic=synthetic, validation=validation, features=features)

    @property
    def available(self) -> np.ndarray:
        """Synthetic images of each class that a setting may ask for. [C]"""
        return self.synthetic.counts // max(1, len(self.experiment.generator.names))

    def counts(self, setting: Setting) -> np.ndarray:
        """Synthetic images of each class that a setting asks for; a class that has none gets none. [C]"""
        return setting.synthetic_counts(self.real.counts, self.experiment, self.available > 0)

    def _of(self, generator: str | None) -> tuple[ImageSource, np.ndarray | None]:
        """The synthetic images of one of several generators (else all), and the features of the real ones and these."""
        if not generator:
            return self.synthetic, self.features
        rows = side_by_side(len(self.synthetic), self.experiment.generator.names)[generator]
        if self.features is None:
            return self.synthetic.take(rows), None
        n = len(self.real)
        return self.synthetic.take(rows), np.concatenate([self.features[:n], self.features[n:][rows]])

    def at(self, setting: Setting, team: Team = ALONE) -> tuple[TrainingData, ImageSource, Classifier]:
        """What `fit` takes at a setting: the mix with its regions, the validation set, and the classifier section with
        the setting's values. Without a synthetic image the real ones are used anyway; of several generators the
        setting's own images alone are used. Workers of a team all ask, and share the work."""
        e, counts = self.experiment, self.counts(setting)
        classifier = setting.applied_to(e.classifier)
        synthetic, features = self._of(setting.generator)
        real = self.real
        if counts.any() and not e.data.use_real:
            real, features = real.take(np.zeros(0, np.int64)), None if features is None else features[len(real) :]
        mixed = mix(
            real,
            synthetic,
            counts,
            partition=e.partition.model_copy(update={"num_clusters": setting.num_clusters}),
            seed=derive_seed("partition", e.seed),
            online=classifier.algorithm == "lightweight",
            features=features,
            team=team,
        )
        return mixed, self.validation, classifier
