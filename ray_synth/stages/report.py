"""Everything that a run has found in, report.html out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ray_synth.config import Experiment, digest
from ray_synth.hardware.measure import Measure
from ray_synth.stages.distill import Distill
from ray_synth.stages.estimate import Estimate
from ray_synth.stages.evaluate import Evaluate
from ray_synth.stages.finetune import Finetune
from ray_synth.stages.generate import Generate
from ray_synth.stages.stage import Stage
from ray_synth.stages.summary import summary_of
from ray_synth.stages.sweep import Sweep
from ray_synth.stages.train import REGIONS, Train
from ray_synth.tasks import Task, Tasks

if TYPE_CHECKING:
    from ray_synth.hardware.gpus import Gpu
    from ray_synth.report.decision import Asked, Cost
    from ray_synth.stages.bench import Bench

REPORT = "report.html"
PAGE = 2  # what the page looks like: another number makes the pages of finished runs anew


class Report(Stage):
    """The page that people look at."""

    name = "report"
    purpose = "Write report.html"
    needs = (Generate, Estimate, Sweep, Train, Evaluate, Distill)
    keeps = (REPORT, "log.txt")
    figures = (REPORT,)

    @classmethod
    def asked(cls, experiment: Experiment) -> bool:
        return True

    @property
    def digest(self) -> str:
        said = summary_of(self.others) | {"seconds": {}}
        if Distill in self.others:
            distill = self.of(Distill)
            return digest("report", PAGE, said, [distill.job.made(method) for method in distill.settings.methods])
        from ray_synth.sweep.ledger import LEDGER

        return digest(
            "report",
            PAGE,
            said,
            self.of(Evaluate).metrics(),
            self.of(Generate).result().to_dict(),
            self.of(Estimate).result().to_dict(),
            *(each.to_dict() for each in self.of(Estimate).ranking()),
            hashlib.sha256(self.folder.read(LEDGER)).hexdigest(),
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        return (REPORT,)

    @property
    def plan(self) -> str:
        return "writing report.html"

    def tasks(self) -> Sequence[Tasks]:
        if self.complete:
            return ()
        page = Tasks(tasks=(Task(name=REPORT, takes={"report": 1}),))
        if Distill in self.others:
            return (page,)
        return (self.of(Generate).reading(self.of(Train).top_ratio), page)

    def run(self, advance: Callable[[int], None]) -> None:
        if Distill in self.others:
            self._write_distilled()
        else:
            self._write()
        advance(1)

    def _write_distilled(self) -> None:
        from ray_synth.report.distilled import write_distilled
        from ray_synth.report.sections.distillation import Distilled

        distill = self.of(Distill)
        write_distilled(
            self.folder,
            Distilled(
                name=self.experiment.name,
                metrics=distill.metrics(),
                real=self.inputs.splits.train,
                images={method: distill.images(method) for method in distill.settings.methods},
                settings=self.experiment.model_dump(mode="json"),
                seconds=summary_of(self.others)["seconds"],
            ),
        )

    def _write(self) -> None:
        from ray_synth.partition import RegionReport
        from ray_synth.report.html import write_report
        from ray_synth.report.results import RunResults
        from ray_synth.report.summary import Summary

        sweep, train = self.of(Sweep), self.of(Train)
        results = RunResults(
            summary=Summary.from_dict(summary_of(self.others)),
            generation=self.of(Generate).result(),
            estimate=self.of(Estimate).result(),
            ranking=self.of(Estimate).ranking(),
            metrics=self.of(Evaluate).metrics(),
            details=self.of(Evaluate).details(),
            trials=sweep.trials,
            real=self.inputs.splits.generator,
            synthetic=self.of(Generate).of_generator(train.generator),
            settings=self.experiment.model_dump(mode="json"),
            histories=train.histories(),
            regions=self.folder.read_record(REGIONS, RegionReport),
            importances=sweep.importances(),
            metric=self.experiment.sweep.metric,
            adapters=self.of(Finetune).histories(),
            adapter_samples=self.of(Finetune).samples(),
            cost=self._cost(),
            asked=self._asked(),
            filters=self.of(Generate).filters,
        )
        write_report(self.folder, results)

    def _cost(self) -> Cost:
        """What images and trainings took in this run."""
        from ray_synth.report.decision import Cost

        made, record = self.of(Generate).result().made, self.folder.stage(Generate.name)
        image = record.seconds / made if record is not None and made and self.inputs.available is None else None
        grows = self.experiment.classifier.budget == "epochs"
        return Cost.of(self.of(Sweep).trials, image=image, grows=grows, share=self.inputs.tried_share)

    def _asked(self) -> Asked:
        from ray_synth.report.decision import Asked

        e = self.experiment
        return Asked(
            place=self.folder.url,
            seed=e.seed,
            shots=e.data.shots,
            max_ratio=e.sweep.max_ratio,
            images_per_class=e.generate.images_per_class,
            more=self.inputs.available is None,
        )

    def show(self) -> None:
        print(f"report: {self.folder.url}/{REPORT}")

    def published(self, gpu: Gpu) -> Mapping[str, Measure]:
        return {"report": gpu.overheads["report"]}

    def calibrate(self, bench: Bench) -> None:
        from ray_synth.hardware.gpus import table

        if bench.wants("report"):
            bench.found["report"] = table()["overheads"]["report"]
