"""The three settings that are compared in, their trainings and the best classifier out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.config import digest
from ray_synth.seeding import derive_seed
from ray_synth.stages.estimate import Prediction
from ray_synth.stages.generate import SyntheticImages
from ray_synth.stages.inputs import Inputs, Stage
from ray_synth.stages.sweep import SweepOfRun

if TYPE_CHECKING:
    from torch import nn

    from ray_synth.classifier.final import Training
    from ray_synth.classifier.setting import Setting

SETTINGS, REGIONS = "model/settings.json", "model/regions.json"


class FinalTrainings:
    """Real images alone, the predicted ratio, and the best setting of the sweep, each with several seeds."""

    def __init__(self, inputs: Inputs, images: SyntheticImages, prediction: Prediction, sweep: SweepOfRun):
        self.inputs, self.images, self.prediction, self.sweep = inputs, images, prediction, sweep
        self.experiment, self.folder = inputs.experiment, inputs.folder

    def settings(self) -> dict[str, Setting]:
        """What is compared, by name."""
        from ray_synth.classifier.setting import default_setting

        at = functools.partial(default_setting, self.inputs.on_workers, len(self.inputs.class_names))
        return {"real_only": at(0.0), "at_predicted": at(self.prediction.ratio), "best": self.sweep.best}

    def trainings(self) -> Iterator[Training]:
        from ray_synth.classifier.final import Training

        for name, setting in self.settings().items():
            for repeat in range(self.experiment.evaluate.repeats):
                seed = derive_seed("final", self.experiment.seed, repeat)
                yield Training(name=f"{name}-{repeat}", setting=setting, seed=seed, diagnosed=repeat == 0)

    def stage(self) -> Stage:
        e, trainings = self.experiment, list(self.trainings())
        stage_digest = digest(
            "train",
            [[t.name, t.setting.to_dict(), t.seed] for t in trainings],
            e.classifier,
            e.partition,
            self.inputs.classifier_files,
            e.data.use_real,
            e.seed,
            self.images.digest,
            self.inputs.digests["train"],
            self.inputs.digests["validation"],
        )
        plan = "final trainings: real only, at the predicted ratio, at the swept best"
        return Stage(stage_digest, ("model",), plan, len(trainings), functools.partial(self._work, trainings))

    def _work(self, trainings: list[Training], advance: Callable[[int], None]) -> None:
        from ray_synth.classifier.experiment_data import ExperimentData
        from ray_synth.classifier.final import train_final

        self.inputs.start_ray()
        settings, real = self.settings(), self.inputs.splits.train
        synthetic = self.images.for_ratio(max(setting.synthetic_ratio for setting in settings.values()))
        self.folder.write_json(SETTINGS, {name: setting.to_dict() for name, setting in settings.items()})
        data = ExperimentData.of(self.inputs.on_workers, real, synthetic, self.inputs.splits.validation)
        workers = self.experiment.classifier.num_workers
        train_final(self.folder, trainings, data, num_workers=workers, progress=advance)
        self._keep_best([t for t in trainings if t.name.startswith("best-")])
        advance(len(trainings))

    def _keep_best(self, trainings: list[Training]) -> None:
        """The deliverable: of the best setting's seeds the best on the validation set, and that setting's regions."""
        from ray_synth.classifier.final import save_classifier

        model, accuracy = max((self.loader(training)() for training in trainings), key=lambda pair: pair[1])
        setting, real = trainings[0].setting, self.inputs.splits.train
        description = {
            "classifier": setting.applied_to(self.experiment.classifier).model_dump(mode="json"),
            "shape": list(real.images.shape[1:]),
            "class_names": list(self.inputs.class_names),
            "setting": setting.to_dict(),
            "validation_accuracy": accuracy,
        }
        save_classifier(self.folder, model, description)
        self.folder.write("model/regions.parquet", self.folder.read(trainings[0].regions))
        self.folder.write_json(REGIONS, self.folder.read_json(trainings[0].region_report))

    def loader(self, training: Training) -> Callable[[], tuple[nn.Module, float]]:
        """What loads a trained classifier and its validation accuracy, here or in another process."""
        from ray_synth.classifier.final import load_run

        classifier = training.setting.applied_to(self.inputs.on_workers.classifier)
        like = self.inputs.splits.train.take(np.zeros(1, dtype=np.int64))  # for its shape and classes
        return functools.partial(load_run, self.folder, training, classifier, like)

    def histories(self) -> dict[str, Any]:
        """What was measured while the first training of each setting ran."""
        files = {t.name.rsplit("-", 1)[0]: t.history for t in self.trainings() if t.diagnosed}
        return {name: self.folder.read_json(file) for name, file in files.items() if self.folder.exists(file)}
