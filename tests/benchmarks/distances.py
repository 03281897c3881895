"""FID and KID of 10,000 x 2,048 features a side: seconds of this package, and torch-fidelity's figures beside its own.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.distances     # a minute on two cores

The bar is 60 s for both on two cores, and 1e-4 relative. torch-fidelity's KID is of one block of all samples; it takes
gigabytes, and is asked with --theirs.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch

from ray_synth.metrics.fidelity import frechet_distance
from ray_synth.metrics.kernels import kernel_distance
from ray_synth.torch_ops import import_torchvision

BAR, RELATIVE = 60.0, 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--theirs", action="store_true")
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    mixed = rng.normal(size=(given.features, given.features)) / np.sqrt(given.features)
    real = np.maximum(rng.normal(size=(given.images, given.features)) @ mixed, 0)
    synthetic = np.maximum(rng.normal(size=(given.images, given.features)) @ mixed + 0.1, 0)
    found, total, used = {}, 0.0, 0.0
    for name, distance in (("FID", frechet_distance), ("KID", kernel_distance)):
        begin, busy = time.monotonic(), time.process_time()
        found[name] = distance(real, synthetic)
        seconds, work = time.monotonic() - begin, time.process_time() - busy
        total, used = total + seconds, used + work
        print(f"{name} {found[name]:.6g}: {seconds:.1f} s, {work:.1f} s of cores", flush=True)
    print(f"both: {total:.1f} s, {used:.1f} s of cores")
    close = True
    if given.theirs:
        import_torchvision()
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
        from torch_fidelity.metric_kid import kid_features_to_metric

        a, b = torch.from_numpy(real), torch.from_numpy(synthetic)
        both = [fid_features_to_statistics(each) for each in (a, b)]
        theirs = {"FID": fid_statistics_to_metric(*both, verbose=False)["frechet_inception_distance"]}
        blocks = {"kid_subsets": 1, "kid_subset_size": given.images}
        theirs["KID"] = kid_features_to_metric(a, b, verbose=False, **blocks)["kernel_inception_distance_mean"]
        for name, value in theirs.items():
            apart = abs(found[name] - value) / abs(value)
            close = close and apart < RELATIVE
            print(f"torch-fidelity's {name} {value:.6g}: {apart:.1e} apart")
    return 0 if close and (given.images < 10_000 or total <= BAR) else 1


if __name__ == "__main__":
    sys.exit(main())
