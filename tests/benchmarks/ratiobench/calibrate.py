"""The tuning half of RatioBench in, the stability bound's constants of least mean regret out.

python -m tests.benchmarks.ratiobench.calibrate
"""

from __future__ import annotations

import itertools

import numpy as np

from ray_synth.bound.image_risk import stability_on_images
from ray_synth.bound.stability import StabilityConstants, stability_ratio
from ray_synth.features.encoders import encoder_of
from ray_synth.features.families import linear_families
from tests.benchmarks.ratiobench.cells import RATIOS, load_cell, pilot_of
from tests.benchmarks.ratiobench.rules import FEATURES, Case, at, curves

CONSTANTS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # tried for C1 and C2; C3 = 1 sets the scale


def terms(case: Case) -> tuple[float, float, int]:
    """Distance, dimension and number of real images, as the estimate measures them."""
    data = load_cell(case.cell)
    images, _ = pilot_of(data)
    spec = FEATURES[case.group]
    encoder = None if spec == "auto" else encoder_of(spec)
    sets = next(iter(linear_families([data.real, images], encoder=encoder, seed=0).values()))
    found = stability_on_images(sets[0], sets[1], num_real=len(data.real), max_ratio=max(RATIOS))
    return found.distance, found.dimension, len(data.real)


def main() -> None:
    truth = {case: np.mean(list(by.values()), axis=0) for case, by in curves().items() if case.half == "tuning"}
    measured = {case: terms(case) for case in truth}
    rows = []
    for c1, c2 in itertools.product(CONSTANTS, CONSTANTS):
        regret = []
        for case, (distance, dimension, num_real) in measured.items():
            ratio = stability_ratio(
                distance=distance,
                num_real=num_real,
                dimension=dimension,
                max_ratio=max(RATIOS),
                constants=StabilityConstants(c1=c1, c2=c2),
            )
            regret.append(truth[case].max() - at(truth[case], ratio))
        rows.append((float(np.mean(regret)), float(np.max(regret)), c1, c2))
    print(f"{len(truth)} cases\n{'mean regret':>12}{'worst':>8}{'C1':>8}{'C2':>8}")
    for mean, worst, c1, c2 in sorted(rows)[:5]:
        print(f"{mean:12.4f}{worst:8.3f}{c1:8g}{c2:8g}")


if __name__ == "__main__":
    main()
