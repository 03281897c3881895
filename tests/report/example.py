"""A run's results as values, with every section of the report and names that would be markup or formulas."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from ray_synth.bound.proxies import proxy_table
from ray_synth.bound.result import ClassEstimate, RatioEstimate, Spectra
from ray_synth.data.images import ImageSet
from ray_synth.partition import RegionReport
from ray_synth.report.decision import Asked, Cost
from ray_synth.report.results import RunResults
from ray_synth.sampling.generation import Generation
from ray_synth.sweep.ledger import Trial
from ray_synth.sweep.space import Setting

from ..estimates import curve_of, estimate_of
from .test_summary import summary_of

NAMES = (
    "<script>alert(1)</script>",
    "=1+1",
    '"><img src=x onerror=alert(1)>',
    "</script><b>",
    "@SUM(A1)",
    "-cmd|' /C calc'!A0",
)
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="


def images_of(seed: int) -> ImageSet:
    labels = np.repeat(np.arange(len(NAMES)), 10)
    pixels = np.random.default_rng(seed).integers(0, 255, (len(labels), 12, 12, 3), dtype=np.uint8)
    return ImageSet(pixels=pixels, labels=labels, class_names=NAMES)


def estimate() -> RatioEstimate:
    """A U of its lowest at ratio 6, over 33 ratios."""
    u = np.linspace(0, np.log2(17), 33)
    error = 0.1 + 0.02 * (u - np.log2(7)) ** 2
    classes = tuple(
        ClassEstimate(
            label=label, num_real=10, num_synthetic=80, ratio=float(label), interval=(0.0, 8.0) if label else None,
            recall_real_only=0.9 - label / 10, recall=0.95 - label / 50, distance=0.5 if label else None,
        )
        for label in range(len(NAMES))
    )  # fmt: skip
    rows = proxy_table({"RAPSD": 0.001, "FID": 0.5}, variance=0.08, decays=(0.4, 0.7), num_real=60, max_ratio=16.0)
    terms = {
        "ratio": 2.0, "discrepancy": 0.001, "noise_variance_raw": 5202.0, "ratio_raw_variance": 16.0,
        "decay_1d": 0.7, "ratio_decay_1d": 1.0, "proxies": [asdict(row) for row in rows],
    }  # fmt: skip
    return estimate_of(
        curve_of((2**u - 1).tolist(), error.tolist(), (error - 0.03).tolist(), (error + 0.03).tolist()),
        ratio=6.0, interval=(3.0, 9.0), classes=classes, warnings=(f"class {NAMES[0]} is rare",), reason="<b>sure</b>",
        spectra=Spectra(frequency=(0.125, 0.25, 0.5), real=(900.0, 90.0, 9.0), synthetic=(900.0, 80.0, 4.0)),
        methods={"closed_form": terms}, num_real=60, num_real_given=60,
    )  # fmt: skip


def trials() -> list[Trial]:
    generator = np.random.default_rng(0)
    made = []
    for number in range(20):
        ratio, strength = float(generator.uniform(0, 16)), float(10 ** generator.uniform(-2, 1))
        classifier = {"lambda_1": strength, "optimizer": "<i>sgd</i>" if number % 2 else "adamw"}
        setting = Setting(
            synthetic_ratio=round(ratio, 3), num_clusters=int(generator.integers(2, 40)), classifier=classifier
        )
        status = "pruned" if number % 5 == 4 else "complete"
        accuracy = 0.9 - 0.01 * abs(ratio - 6) + float(generator.normal(0, 0.005))
        made.append(
            Trial(
                trial_id=f"t{number:05}", status=status, seconds=5.0, accuracy=accuracy, setting=setting,
                num_synthetic=int(60 * ratio), origin=("first", "prior", "tpe")[number % 3],
            )
        )  # fmt: skip
    return made


def metrics() -> dict[str, float]:
    found = {
        "label_fidelity/judge_accuracy": 0.95, "rapsd_distance": 0.02, "feature_distance/frechet": 1.5,
        f"feature_distance/class/{NAMES[0]}/frechet": 2.5, "copies/share": 0.02, "copies/found": 1.0,
        "copies/looked_at": 60.0, "copies/by_chance": 0.5, "lira/shadows": 16.0, "lira/images_per_class": 10.0,
        "lira/non_members": 800.0, "lira/real/accuracy": 0.7, "lira/real/auc": 0.8, "lira/real/auc/std": 0.01,
    }  # fmt: skip
    return found | {f"lira/real/roc/{fpr:g}": min(1.0, 2 * fpr) for fpr in (0.00125, 0.01, 0.1, 1.0)}


def tested() -> tuple[dict[str, float], dict[str, Any]]:
    """What the test sets said: numbers, and what stands beside them."""
    sides = ("real_only", "best")
    found: dict[str, float] = {}
    for side in sides:
        found |= {f"accuracy/{side}{end}": 0.8 for end in ("", "/low", "/high")} | {f"calibration_error/{side}": 0.1}
        found |= {f"ood/{NAMES[0]}/{side}{end}": 0.7 for end in ("", "/low", "/high")}
        found |= {f"corruption/{row}/{side}{end}": 0.6 for row in ("blur", "mean") for end in ("", "/low", "/high")}
    for name in ("total", "predicted"):
        found |= {f"gain/{name}": 0.1, f"gain/{name}/low": 0.08, f"gain/{name}/high": 0.12}
    matrix = (np.eye(len(NAMES)) * 9 + 1).tolist()
    confusion = {side: {"mostly": {NAMES[0]: [[NAMES[1], 0.25]]}, "matrix": matrix} for side in sides}
    bins = {"edges": [0, 0.5, 1], "counts": [5, 5], "confidence": [0.4, 0.9], "accuracy": [0.3, 0.8]}
    details = {
        "final_accuracy": {
            "interval": "95 %", "test_images": 60, "same": {}, "confusion": {"class_names": list(NAMES), **confusion},
            "classes": [{"class": name, "images": 10, "accuracy": dict.fromkeys(sides, 0.5)} for name in NAMES],
            "calibration": dict.fromkeys(sides, bins),
        },
        "ood": {NAMES[0]: {"images": 60, "classes": 3, "of_classes": 6, "notes": [NAMES[2]]}},
        "corruption": {"images": 60, "constants": "CIFAR-10-C", "clean": dict.fromkeys(sides, 0.8),
                       "strengths": {"blur": {side: [0.7, 0.6, 0.5, 0.4, 0.3] for side in sides}}},
    }  # fmt: skip
    return found, details


def example() -> RunResults:
    points = np.random.default_rng(1).normal(size=(2, 30, 2)).round(3)
    embedded = {
        side: [[*point, place % len(NAMES)] for place, point in enumerate(points[i].tolist())]
        for i, side in enumerate(("real", "synthetic"))
    }
    pair = {
        "synthetic": "7", "real": NAMES[2], "class": NAMES[0], "real_class": NAMES[3], "distance": 0.25, "cosine": 0.9,
        "copy": True, "pictures": [PIXEL, PIXEL],
    }  # fmt: skip
    copies = {
        "compared_by": "SSCD",
        "digest": "f" * 64,
        "views": 4,
        "real_images": 60,
        "instead_of": None,
        "rule": "the rule",
    }
    distance = {"encoder": "thumbnails", "digest": None, "real_images": 60, "synthetic_images": 60, "notes": []}
    history = [
        {"update": float(i), "bound/discrepancy": 1 / i, "bound/robustness": 2 / i, "accuracy": 0.5} for i in (1, 2, 3)
    ]
    return RunResults(
        summary=summary_of(name="example", predicted_ratio=6.0, interval=(3.0, 9.0), num_real=60, failed=("made_up",)),
        generation=Generation(
            model_id=NAMES[0], model_revision="1", model_license="", images_per_class=(10,) * len(NAMES), asked=60,
            made=60, kept=60, rejected={}, rejected_keys=(),
        ),
        estimate=estimate(), metrics=metrics() | tested()[0], trials=trials(),
        real=images_of(0), synthetic=images_of(1),
        settings={"name": NAMES[3]}, histories={"best": history}, importances={"lambda_1": 0.7, "synthetic_ratio": 0.3},
        regions=RegionReport(
            num_regions=2, sizes=(1, 5, 9), empty=0, with_real=0.5, covered_synthetic=0.25, purity=0.75
        ),
        adapters={"": [{"step": 100, "loss": 0.5, "validation_loss": 0.6}, {"step": 200, "loss": 0.4}]},
        adapter_samples={"200": b"png"},
        details={
            "feature_distance": {**distance, "embedding": {"shares": [0.4, 0.2], **embedded}},
            "copies": {**copies, "pairs": [pair]},
            **tested()[1],
        },
        cost=Cost.of(trials(), image=0.1, grows=False),
        asked=Asked(place="runs/it's", seed=0, shots=10, max_ratio=16.0, images_per_class=160, more=True),
    )  # fmt: skip
