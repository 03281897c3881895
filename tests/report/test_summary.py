"""summary.json and generation.json are read back as they were written, what a later version adds included."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ray_synth.errors import InputError
from ray_synth.report.summary import Summary
from ray_synth.sampling.generation import Generation, Rejected


def summary_of(**changes: Any) -> Summary:
    settings: dict[str, Any] = {
        "name": "digits",
        "predicted_ratio": 4.0,
        "interval": (2.0, 8.0),
        "verdict": "helps",
        "best_ratio": 5.5,
        "best_setting": {"synthetic_ratio": 5.5, "num_clusters": 20},
        "accuracy": {"real_only": 0.8, "at_predicted": 0.9, "best": 0.91},
        "accuracy_std": {"real_only": 0.01, "at_predicted": 0.02, "best": 0.03},
        "repeats": 3,
        "label_fidelity": 0.75,
        "num_real": 100,
        "num_generated": 1600,
        "num_trials": 1,
        "cheapest": {"trial_id": "t00000", "tolerance": 0.005, "synthetic_ratio": 5.5, "num_clusters": 20},
        "seconds": {"finetune": 1.0, "report": 2.0},
    }
    return Summary(**{**settings, **changes})


@pytest.mark.parametrize("changes", [{}, {"failed": ("label_fidelity",), "label_fidelity": None, "accuracy": {}}])
def test_a_summary_is_read_back_as_it_was_written(changes: dict[str, Any]) -> None:
    summary = summary_of(**changes)
    text = json.dumps(summary.to_dict())
    assert ("failed" in json.loads(text)) == bool(changes)
    assert Summary.from_dict(json.loads(text)) == summary


def test_fields_that_are_not_known_are_kept() -> None:
    plain = {**json.loads(json.dumps(summary_of().to_dict())), "distilled": {"ipc": 10}}
    summary = Summary.from_dict(plain)
    assert summary.more == {"distilled": {"ipc": 10}}
    assert json.loads(json.dumps(summary.to_dict())) == plain


def test_a_summary_that_was_cut_short_names_what_is_missing() -> None:
    plain = summary_of().to_dict()
    del plain["seconds"]
    with pytest.raises(InputError, match=r"summary\.json cannot be read: seconds: Field required"):
        Summary.from_dict(plain)


def test_a_generation_is_read_back_as_it_was_written() -> None:
    generation = Generation(
        model_id="model", model_revision="1", model_license="", images_per_class=(2,) * 10, asked=20, made=21, kept=20,
        rejected={"flat": 1}, rejected_keys=(Rejected(key="0/3", reason="flat"),),
    )  # fmt: skip
    plain = json.loads(json.dumps(generation.to_dict()))
    assert plain["rejected_keys"] == [{"key": "0/3", "reason": "flat"}]
    assert Generation.from_dict(plain) == generation
