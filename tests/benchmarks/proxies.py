"""The cells of RatioBench in, what the closed form gives away under each of its proxies out.

    RAY_SYNTH_DATA=DATA python -m tests.benchmarks.proxies

Without the probe: spectra, features and Corollary 2.2.1 of Shidani et al., 2025 alone, about a second a cell. *Regret*
as in `ratiobench.rules`. Rows are discrepancies, columns the scale of pixels that σ² is read at and the decay.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np

from ray_synth.bound.proxies import Proxy, feature_discrepancies, proxy_table
from ray_synth.bound.theorem import closed_form
from ray_synth.features.families import linear_families
from ray_synth.metrics.spectrum import pixel_stats
from tests.benchmarks.ratiobench.cells import RATIOS, load_cell, pilot_of
from tests.benchmarks.ratiobench.rules import Case, at, curves


def proxies_of(case: Case) -> tuple[Proxy, ...]:
    data = load_cell(case.cell)
    synthetic, _ = pilot_of(data)
    real = data.real if data.real.ndim == 4 else data.real[..., None]
    synthetic = synthetic if synthetic.ndim == 4 else synthetic[..., None]
    sides = [pixel_stats(images, count=len(images)) for images in (real, synthetic)]
    found = closed_form(*sides, num_real=len(real), max_ratio=max(RATIOS))
    ours, theirs = next(iter(linear_families([real, synthetic], encoder=None, seed=0).values()))
    return proxy_table(
        {"RAPSD": found.discrepancy, **feature_discrepancies(ours, theirs)},
        variance=found.noise_variance,
        decays=(found.decay_measured, found.decay_1d),
        num_real=len(real),
        max_ratio=max(RATIOS),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=["tuning", "judging", "both"], default="both")
    options = parser.parse_args()
    regrets: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    ratios: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    swings: list[float] = []
    for case, families in sorted(curves().items(), key=lambda item: item[0]):
        if options.half not in (case.half, "both") or case.group != "scratch":
            continue
        curve = np.mean(list(families.values()), axis=0)
        rows = proxies_of(case)
        for row in rows:
            key = (row.discrepancy, row.noise, row.decay)
            regrets[key].append(float(curve.max()) - at(curve, row.ratio))
            ratios[key].append(row.ratio)
        swings.append(max(row.ratio for row in rows) / min(row.ratio for row in rows))
    columns = list(dict.fromkeys(key[1:] for key in regrets))
    print(f"{len(swings)} cases; the largest ratio over the least within a case: median {np.median(swings):.3g}")
    print(f"{'mean regret (median ratio)':28}" + "".join(f"{f'{noise}, {decay}':>18}" for noise, decay in columns))
    for name in dict.fromkeys(key[0] for key in regrets):
        values = [(np.mean(regrets[name, *c]), np.median(ratios[name, *c])) for c in columns]
        print(f"{name:28}" + "".join(f"{f'{regret:.3f} ({ratio:.2g})':>18}" for regret, ratio in values))


if __name__ == "__main__":
    main()
