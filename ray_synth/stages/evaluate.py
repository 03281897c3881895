"""Trained classifiers in, metrics.json out: the one look at the test set."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.classifier.setting import AUGMENTED, COMPARED, TUNED
from ray_synth.config import Ood, digest
from ray_synth.errors import PartlyDone
from ray_synth.hardware.measure import Measure
from ray_synth.stages.finetune import Finetune
from ray_synth.stages.generate import Generate
from ray_synth.stages.inputs import Inputs
from ray_synth.stages.stage import Stage
from ray_synth.stages.summary import SUMMARY
from ray_synth.stages.train import Train
from ray_synth.tasks import Task, Tasks

if TYPE_CHECKING:
    from ray_synth.data.ood import FurtherSet
    from ray_synth.data.source import ImageSource
    from ray_synth.evaluators.context import EvaluationContext
    from ray_synth.evaluators.shadows import Recipe
    from ray_synth.hardware.gpus import Gpu
    from ray_synth.stages.bench import Bench

METRICS, DETAILS = "metrics.json", "evaluation.json"
CORRUPTION_SECONDS = 0.005  # of an image of 224 pixels a side
SPECTRUM_PIXELS = 224 * 224 * 3  # of the image whose spectrum gpus.yaml has


class Evaluate(Stage):
    """The final comparison on the test set, and what the synthetic images are like."""

    name = "evaluate"
    purpose = "Read the test set, once, and write metrics.json and summary.json"
    needs = (Generate, Train)
    reads = (Train,)
    keeps = figures = (METRICS, DETAILS, SUMMARY)
    concludes = True

    def __init__(self, inputs: Inputs, others: Mapping[type[Stage], Stage]):
        """Raises InputError for shadow models that cannot be trained, and further test sets that cannot be read or do
        not match."""
        super().__init__(inputs, others)
        self.further: tuple[FurtherSet, ...] = ()
        if not inputs.described:
            from ray_synth.data.ood import further_sets

            self.further = further_sets(self.experiment.evaluate.ood, self.experiment.data, inputs.splits)
        lira = self.experiment.evaluate.lira
        if lira is not None and not inputs.described:
            from ray_synth.evaluators.shadows import check_pool

            generator = self.of(Finetune).generator if lira.synthetic else None
            check_pool(inputs.splits.train.counts, generator)

    @property
    def notes(self) -> Sequence[str]:
        return [f"{each.name}: {note}" for each in self.further for note in each.notes]

    @property
    def digest(self) -> str:
        from ray_synth.evaluators.table import EVALUATORS
        from ray_synth.features.automatic import word_at_hand
        from ray_synth.sampling.digests import encoder_files

        settings = self.experiment.evaluate
        trained = self.folder.stage(Train.name)
        return digest(
            "evaluate",
            list(EVALUATORS),
            trained.digest if trained else "",
            self.inputs.digests,
            self.of(Generate).images_per_class.tolist(),
            self.experiment.seed,
            settings.copies,
            *(
                encoder_files(word)
                for word in (word_at_hand(settings.features, self.inputs.shape), settings.copies.word)
            ),
            *([self.experiment.evaluate.lira] if self.experiment.evaluate.lira else []),
            *([settings.ood, self._further_digests] if settings.ood != Ood() else []),
        )

    @functools.cached_property
    def _further_digests(self) -> list[str]:
        return [each.digest for each in self.further]

    @property
    def outputs(self) -> tuple[str, ...]:
        return (METRICS, DETAILS)

    @property
    def plan(self) -> str:
        from ray_synth.evaluators.context import MOST_LOOKED_AT

        looked_at = min(self._synthetic, MOST_LOOKED_AT)
        reading = f"reading the {len(self.inputs.splits.test):,} test images, once, and {looked_at:,} synthetic ones"
        ood, lira = self.experiment.evaluate.ood, self.experiment.evaluate.lira
        if self.further:
            reading += f", {self._further_images:,} of {', '.join(each.name for each in self.further)}"
        if ood.corrupted:
            reading += f", {self._corrupted:,} corrupted ones in {len(ood.corrupted)} ways and 5 strengths"
        if lira is None:
            return reading
        half = len(self.inputs.splits.train) // 2
        also = f", and as many, each with a generator, on {half:,} synthetic ones" if lira.synthetic else ""
        return f"{reading}; training {lira.shadows} shadow models on {half:,} real images each{also}"

    @property
    def partly(self) -> bool:
        record = self.folder.stage(self.name)
        return record is not None and not record.complete and self.folder.exists(METRICS) and self.begun

    @property
    def _synthetic(self) -> int:
        """Synthetic images that there are by then, of the generator that is looked at."""
        images = self.of(Generate)
        return images.number_for(self.of(Train).top_ratio) // max(1, len(images.generators))

    @property
    def _further_images(self) -> int:
        """Of the further sets; of ImageNet's that are not here, as many as their authors say."""
        from ray_synth.data.ood import PUBLISHED_SIZES

        unseen = self.inputs.described and self.experiment.evaluate.ood.imagenet is not None
        return sum(PUBLISHED_SIZES.values()) if unseen else sum(len(each.images) for each in self.further)

    @property
    def _corrupted(self) -> int:
        return min(self.experiment.evaluate.ood.images, len(self.inputs.splits.test))

    @property
    def caveats(self) -> Sequence[str]:
        sets = self.experiment.evaluate.ood.sets if self.inputs.described else ()
        return [f"how many images {', '.join(sets)} hold is not known here: they are not counted"] if sets else []

    def tasks(self) -> Sequence[Tasks]:
        from ray_synth.data.corruptions import STRENGTHS
        from ray_synth.evaluators.answers import AT_ONCE
        from ray_synth.evaluators.context import MOST_LOOKED_AT
        from ray_synth.evaluators.table import EVALUATORS, TAKES

        if self.complete:
            return ()
        train = self.of(Train)
        tests, synthetic = train.total * len(self.inputs.splits.test), min(self._synthetic, MOST_LOOKED_AT)
        takes = {name: TAKES[name](tests, synthetic) if name in TAKES else {} for name in EVALUATORS}
        made = len(self.experiment.evaluate.ood.corrupted) * len(STRENGTHS) * self._corrupted
        passes = -(-train.total // AT_ONCE)
        takes["ood"] = {"test_image": train.total * self._further_images} if self._further_images else {}
        takes["corruption"] = {"test_image": train.total * made, "corrupted_image": passes * made} if made else {}
        takes["membership"] = self._shadows_take()
        evaluators = [Task(name=name, takes=each) for name, each in takes.items()]
        return (self.of(Generate).reading(train.top_ratio), Tasks(tasks=evaluators))

    def _shadows_take(self) -> dict[str, float]:
        """The trainings of shadow models, in units of the stages that train the like; nothing where there are none."""
        from ray_synth.classifier.train import num_updates

        lira = self.experiment.evaluate.lira
        if lira is None:
            return {}
        half = len(self.inputs.splits.train) // 2
        models = lira.shadows * (1 + lira.synthetic)
        updates = num_updates(self.experiment.classifier, half, 0)
        takes: dict[str, float] = {
            "training": models,
            "training_image": models * half,
            "training_update_one_side": models * updates,
        }
        if lira.synthetic:
            steps = sum(self.of(Finetune).generator.fit_parts(self.inputs.splits.train.counts).values())
            takes |= {"generator_step": lira.shadows * steps, "image": lira.shadows * half}
        return takes

    def run(self, advance: Callable[[int], None]) -> None:
        from ray_synth.evaluators.table import evaluated

        context = self._context()
        metrics, errors = evaluated(context, advance, failed=self.inputs.reporter.log_traceback)
        self.folder.write_json(DETAILS, context.details)
        self.folder.write_json(METRICS, metrics)
        if errors:
            failed = "; ".join(f"evaluator {name} failed: {error}" for name, error in errors.items())
            raise PartlyDone(f"{failed}; the others' numbers are in {METRICS}")

    def _context(self) -> EvaluationContext:
        from ray_synth.evaluators.context import EvaluationContext

        train, images = self.of(Train), self.of(Generate)
        return EvaluationContext(
            classifiers=[(t.name.rsplit("-", 1)[0], train.loader(t)) for t in train.trainings()],
            train=self.inputs.splits.train,
            test=self.inputs.splits.test,
            read_all_but_test=self.inputs.all_but_test,
            read_synthetic=lambda: images.of_generator(train.generator),
            seed=self.experiment.seed,
            features=self.inputs.on_workers.evaluate.features,
            copies=self.inputs.on_workers.evaluate.copies,
            shadows=self._recipe(),
            same=train.same,
            further=self.further,
            corruptions=self.experiment.evaluate.ood.corrupted,
            corrupted_images=self.experiment.evaluate.ood.images,
        )

    def _recipe(self) -> Recipe | None:
        from ray_synth.evaluators.shadows import Recipe

        lira = self.experiment.evaluate.lira
        if lira is None:
            return None
        return Recipe(
            lira=lira,
            classifier=self.inputs.on_workers.classifier,
            validation=self.inputs.splits.validation,
            generator=self.of(Finetune).generator.on_workers() if lira.synthetic else None,
        )

    def metrics(self) -> dict[str, float]:
        """metrics.json."""
        return self.folder.read_record(METRICS, dict[str, float])

    def details(self) -> Mapping[str, Any]:
        """evaluation.json: what evaluators say beside their numbers, by their names."""
        return self.folder.read_record(DETAILS, dict[str, Any])

    def summary(self) -> Mapping[str, Any]:
        from ray_synth.evaluators.table import failed_in

        metrics, failed = self.metrics(), failed_in(self.metrics())
        measured = [name for name in (*COMPARED, TUNED, AUGMENTED) if f"accuracy/{name}" in metrics]
        return {
            "accuracy": {name: metrics[f"accuracy/{name}"] for name in measured},
            "accuracy_std": {name: metrics[f"accuracy/{name}/std"] for name in measured},
            "label_fidelity": metrics.get("label_fidelity"),
        } | ({"failed": list(failed)} if failed else {})

    def show(self) -> None:
        from ray_synth.report.summary import Summary
        from ray_synth.tables import print_summary

        print_summary(Summary.from_dict(self.folder.read_json(SUMMARY)))

    # What it takes.

    def published(self, gpu: Gpu) -> Mapping[str, Measure]:
        from ray_synth.classifier.flops import image_seconds

        shape = self.inputs.shape
        _, looked_at = image_seconds(gpu, self.experiment.classifier, shape, len(self.inputs.class_names))
        return {
            "evaluate": gpu.overheads["report"].times(2, note="the judge, a small network"),
            "test_image": looked_at,
            "judged_image": gpu.overheads["judged_image"].times(float(np.prod(shape)) / SPECTRUM_PIXELS),
            "corrupted_image": Measure(
                value=CORRUPTION_SECONDS * float(np.prod(shape)) / SPECTRUM_PIXELS + 3e-4,
                sigma=0.3,
                origin="measured on one CPU core at 224 pixels a side",
            ),
        }

    def calibrate(self, bench: Bench) -> None:
        if not bench.wants("evaluate"):
            return
        from ray_synth.classifier.mixture import TrainingData
        from ray_synth.classifier.models import build_model
        from ray_synth.classifier.predict import logits_of
        from ray_synth.classifier.train import fit
        from ray_synth.evaluators.fidelity import JUDGE
        from ray_synth.metrics.spectrum import rapsd
        from ray_synth.stages.bench import MOST_REAL, MOST_SYNTHETIC, some

        inputs = self.inputs
        judged = some(inputs.splits.test, MOST_REAL)
        real = some(inputs.all_but_test(), MOST_SYNTHETIC)
        data, seconds = TrainingData.of_real(real), []
        for updates in (5, 5, 45):
            begin = time.monotonic()
            judge = fit(data, judged, JUDGE.model_copy(update={"updates": updates}), seed=0).model
            seconds.append(time.monotonic() - begin)
        bench.note("evaluate", seconds[1] + max(0.0, seconds[2] - seconds[1]) / 40 * JUDGE.updates, 0.2)
        begin = time.monotonic()
        logits_of(judge, judged)
        rapsd(judged.images().astype(np.float64) / 255.0)
        bench.note("judged_image", (time.monotonic() - begin) / len(judged), 0.2)
        model = build_model(inputs.on_workers.classifier, inputs.shape, inputs.class_names, seed=0).eval()
        logits_of(model, judged.take(slice(8)))
        begin = time.monotonic()
        logits_of(model, judged)
        bench.note("test_image", (time.monotonic() - begin) / len(judged), 0.2)
        self._calibrate_corruptions(bench, judged)

    def _calibrate_corruptions(self, bench: Bench, images: ImageSource) -> None:
        from ray_synth.data.corruptions import corrupted

        names = self.experiment.evaluate.ood.corrupted
        few = images.take(slice(64))
        begin = time.monotonic()
        for name in names:
            corrupted(few, name, 3, seed=0).images()
        if names:
            bench.note("corrupted_image", (time.monotonic() - begin) / len(names) / len(few), 0.2)
