"""Trained classifiers in, metrics.json, summary.json and report.html out: the one look at the test set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from ray_synth.config import digest
from ray_synth.errors import PartlyDone
from ray_synth.stages.generate import SyntheticImages
from ray_synth.stages.inputs import STAGES, Inputs, Stage
from ray_synth.stages.train import REGIONS, SETTINGS, FinalTrainings

if TYPE_CHECKING:
    from ray_synth.evaluators.context import EvaluationContext
    from ray_synth.report.summary import Summary

METRICS, SUMMARY, REPORT = "metrics.json", "summary.json", "report.html"


class Results:
    """What a run says in the end."""

    def __init__(self, inputs: Inputs, images: SyntheticImages, final: FinalTrainings):
        self.inputs, self.images, self.final = inputs, images, final
        self.experiment, self.folder = inputs.experiment, inputs.folder

    def evaluate_stage(self) -> Stage:
        from ray_synth.evaluators.table import EVALUATORS, evaluated

        trained = self.folder.stage("train")

        def work(advance: Callable[[int], None]) -> None:
            metrics, errors = evaluated(self._context(), advance, failed=self.inputs.reporter.log_traceback)
            self.folder.write_json(METRICS, metrics)
            self.summary()
            if errors:
                failed = "; ".join(f"evaluator {name} failed: {error}" for name, error in errors.items())
                raise PartlyDone(f"{failed}; the others' numbers are in {METRICS}")

        stage_digest = digest(
            "evaluate",
            trained.digest if trained else "",
            self.inputs.digests,
            self.images.images_per_class,
            self.experiment.seed,
        )
        plan = f"reading the {len(self.inputs.splits.test):,} test images, once"
        return Stage(stage_digest, (METRICS, SUMMARY), plan, len(EVALUATORS), work)

    def _context(self) -> EvaluationContext:
        from ray_synth.evaluators.context import EvaluationContext

        return EvaluationContext(
            classifiers=[(t.name.rsplit("-", 1)[0], self.final.loader(t)) for t in self.final.trainings()],
            train=self.inputs.splits.train,
            test=self.inputs.splits.test,
            read_all_but_test=self.inputs.all_but_test,
            read_synthetic=lambda: self.images.all,
            seed=self.experiment.seed,
        )

    def summary(self) -> Summary:
        """summary.json from what the other files say; untouched when it says the same already."""
        from ray_synth.evaluators.table import failed_in
        from ray_synth.report.summary import Summary
        from ray_synth.sweep.ledger import cheapest_trial

        folder, search = self.folder, self.experiment.sweep
        estimate, metrics = self.final.prediction.read(), folder.read_json(METRICS)
        settings = folder.read_json(SETTINGS)  # as trained
        records = {name: folder.stage(name) for name in STAGES}
        trials = self.final.sweep.trials
        cheapest = cheapest_trial(trials, search.tolerance, search.metric)
        measured = [name for name in settings if f"accuracy/{name}" in metrics]
        summary = Summary(
            name=self.experiment.name,
            predicted_ratio=self.final.prediction.ratio,
            interval=estimate.interval,
            verdict=estimate.verdict,
            best_ratio=settings["best"]["synthetic_ratio"],
            best_setting=settings["best"],
            accuracy={name: metrics[f"accuracy/{name}"] for name in measured},
            accuracy_std={name: metrics[f"accuracy/{name}/std"] for name in measured},
            repeats=self.experiment.evaluate.repeats,
            label_fidelity=metrics.get("label_fidelity"),
            num_real=int(self.inputs.real_counts.sum()),
            num_generated=self.images.total,
            num_trials=len(trials),
            cheapest={"trial_id": cheapest.trial_id, "tolerance": search.tolerance, **cheapest.setting.to_dict()},
            seconds={name: record.seconds for name, record in records.items() if record and record.complete},
            failed=failed_in(metrics),
        )
        self._write_summary(summary)
        return summary

    def _write_summary(self, summary: Summary) -> None:
        after = summary.to_dict()
        if self.folder.exists(SUMMARY):
            before = self.folder.read_json(SUMMARY)
            if before == after:
                return
            if before | {"seconds": {}} != after | {"seconds": {}}:
                self.inputs.report_moved(self.folder.set_aside([SUMMARY], "results"))
        self.folder.write_json(SUMMARY, after)

    def report_stage(self) -> Stage:
        from ray_synth.sweep.ledger import LEDGER

        summary, metrics = self.summary(), self.folder.read_json(METRICS)
        generation, estimate = self.images.generation(), self.final.prediction.read()

        def work(advance: Callable[[int], None]) -> None:
            from ray_synth.partition import RegionReport
            from ray_synth.records import record
            from ray_synth.report.html import write_report
            from ray_synth.report.results import RunResults

            results = RunResults(
                summary=summary,
                generation=generation,
                estimate=estimate,
                metrics=metrics,
                trials=self.final.sweep.trials,
                real=self.inputs.splits.generator,
                synthetic=self.images.all,
                settings=self.experiment.model_dump(mode="json"),
                histories=self.final.histories(),
                regions=record(RegionReport, self.folder.read_json(REGIONS), REGIONS),
                search=self.final.sweep.picture(),
            )
            write_report(self.folder, results)
            advance(1)

        stage_digest = digest(
            "report",
            summary.to_dict() | {"seconds": {}},
            metrics,
            generation.to_dict(),
            estimate.to_dict(),
            hashlib.sha256(self.folder.read(LEDGER)).hexdigest(),
        )
        return Stage(stage_digest, (REPORT,), "writing report.html", 1, work)
