"""What a sweep found is read back as it was written, numbers that are none included."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from ray_synth.sweep.ledger import SweepResult, Trial
from ray_synth.sweep.space import Setting


def test_the_result_of_a_sweep_is_read_back_as_it_was_written() -> None:
    setting = Setting(synthetic_ratio=2.0, num_clusters=20, classifier={"lambda_1": 0.1, "optimizer": "sgd"})
    good = Trial(
        trial_id="t00000", status="complete", seconds=1.5, accuracy=0.9, accuracy_std=0.01, balanced_accuracy=0.89,
        num_synthetic=200, setting=setting, history=(0.5, 0.9),
    )  # fmt: skip
    cheap = replace(good, trial_id="t00001", accuracy=0.898, num_synthetic=100)
    failed = replace(good, trial_id="t00002", status="failed", accuracy=math.nan, error="lost", history=(math.nan,))
    found = SweepResult(folder="runs/a", metric="accuracy", tolerance=0.005, trials=(good, cheap, failed))
    assert (found.best, found.cheapest) == (good, cheap)
    text = json.dumps(found.to_dict(), allow_nan=False)
    again = SweepResult.from_dict(json.loads(text))
    assert again.trials[:2] == (good, cheap)
    assert math.isnan(again.trials[2].accuracy)
    assert json.dumps(again.to_dict()) == text
