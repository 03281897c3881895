"""Trained classifiers in, metrics.json, summary.json and report.html out: the one look at the test set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ray_synth.config import digest
from ray_synth.seeding import derive_seed
from ray_synth.stages.generate import SyntheticImages
from ray_synth.stages.inputs import STAGES, Inputs, Stage
from ray_synth.stages.train import REGIONS, SETTINGS, FinalTrainings

METRICS, SUMMARY, REPORT = "metrics.json", "summary.json", "report.html"


class Results:
    """What a run says in the end."""

    def __init__(self, inputs: Inputs, images: SyntheticImages, final: FinalTrainings):
        self.inputs, self.images, self.final = inputs, images, final
        self.experiment, self.folder = inputs.experiment, inputs.folder

    def evaluate_stage(self) -> Stage:
        trained = self.folder.stage("train")

        def work(advance: Callable[[int], None]) -> None:
            from ray_synth.evaluation.accuracy import final_accuracy
            from ray_synth.evaluation.fidelity import label_fidelity, looked_at, spectral_distance
            from ray_synth.nodes import where_gpus_are

            test, synthetic = self.inputs.splits.test, looked_at(self.images.all)
            models = [(t.name.rsplit("-", 1)[0], self.final.loader(t)) for t in self.final.trainings()]
            metrics = dict(where_gpus_are(final_accuracy, models, test))
            advance(1)
            judge_seed = derive_seed("judge", self.experiment.seed)
            metrics |= label_fidelity(self.inputs.all_but_test(), test, synthetic, seed=judge_seed)
            advance(2)
            metrics |= spectral_distance(self.inputs.splits.train, synthetic)
            self.folder.write_json(METRICS, {k: v for k, v in metrics.items() if np.isfinite(v)})
            self.summary()
            advance(3)

        stage_digest = digest(
            "evaluate",
            trained.digest if trained else "",
            self.inputs.digests,
            self.images.images_per_class,
            self.experiment.seed,
        )
        plan = f"reading the {len(self.inputs.splits.test):,} test images, once"
        return Stage(stage_digest, (METRICS, SUMMARY), plan, 3, work)

    def summary(self) -> dict[str, Any]:
        """summary.json from what the other files say; untouched when it says the same already."""
        from ray_synth.sweep.ledger import cheapest_trial

        folder, search = self.folder, self.experiment.sweep
        estimate, metrics = self.final.prediction.read(), folder.read_json(METRICS)
        settings = folder.read_json(SETTINGS)  # as trained
        records = {name: folder.stage(name) for name in STAGES}
        trials = self.final.sweep.trials
        cheapest = cheapest_trial(trials, search.tolerance, search.metric)
        summary = {
            "name": self.experiment.name,
            "predicted_ratio": self.final.prediction.ratio,
            "interval": estimate["interval"],
            "verdict": estimate["verdict"],
            "best_ratio": settings["best"]["synthetic_ratio"],
            "best_setting": settings["best"],
            "accuracy": {name: metrics[f"accuracy/{name}"] for name in settings},
            "accuracy_std": {name: metrics[f"accuracy/{name}/std"] for name in settings},
            "repeats": self.experiment.evaluate.repeats,
            "label_fidelity": metrics["label_fidelity"],
            "num_real": int(self.inputs.real_counts.sum()),
            "num_generated": self.images.total,
            "num_trials": len(trials),
            "cheapest": {"trial_id": cheapest.trial_id, "tolerance": search.tolerance, **cheapest.setting.to_dict()},
            "seconds": {name: record.seconds for name, record in records.items() if record and record.complete},
        }
        self._write_summary(summary)
        return summary

    def _write_summary(self, summary: Mapping[str, Any]) -> None:
        if self.folder.exists(SUMMARY):
            before = self.folder.read_json(SUMMARY)
            if before == summary:
                return
            if before | {"seconds": {}} != {**summary, "seconds": {}}:
                self.inputs.report_moved(self.folder.set_aside([SUMMARY], "results"))
        self.folder.write_json(SUMMARY, summary)

    def report_stage(self) -> Stage:
        from ray_synth.sweep.ledger import LEDGER

        summary, metrics = self.summary(), self.folder.read_json(METRICS)
        generation, estimate = self.folder.read_json("generation.json"), self.final.prediction.read()

        def work(advance: Callable[[int], None]) -> None:
            from ray_synth.report.html import write_report

            write_report(
                self.folder,
                summary=summary,
                generation=generation,
                estimate=estimate,
                metrics=metrics,
                trials=self.final.sweep.trials,
                real=self.inputs.splits.generator,
                synthetic=self.images.all,
                settings=self.experiment.model_dump(mode="json"),
                histories=self.final.histories(),
                regions=self.folder.read_json(REGIONS),
                search=self.final.sweep.picture(),
            )
            advance(1)

        stage_digest = digest(
            "report",
            summary | {"seconds": {}},
            metrics,
            generation,
            estimate,
            hashlib.sha256(self.folder.read(LEDGER)).hexdigest(),
        )
        return Stage(stage_digest, (REPORT,), "writing report.html", 1, work)
