"""A checked run in; seconds per unit of its work on this machine out, from short pieces of the run's own code.

Everything happens in a temporary folder, in the order of a run and in one process, so that what a stage imports counts
for it; samplers and trials are measured with all slots busy, since two on two cores are slower than one.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ray_synth.config import ImageFolder
from ray_synth.nodes import cluster_nodes
from ray_synth.planning.calibration.classification import estimate, results, trials
from ray_synth.planning.calibration.generation import generator_steps, sampling
from ray_synth.planning.calibration.pieces import Pieces, timed
from ray_synth.planning.rates import NOTHING, Limits, Rates, fingerprint, table
from ray_synth.planning.work import Work
from ray_synth.runs import RunFolder

if TYPE_CHECKING:
    from ray_synth.pipeline import Run


def calibrate(run: Run, work: Work, *, started: float, say: Callable[[str], None] = lambda text: None) -> Rates:
    """Measure what the run would do here. started: monotonic time at which the command began.

    Ray is started for as long as this takes, where it is not up.
    """
    with tempfile.TemporaryDirectory(prefix="ray_synth-plan-") as scratch, run.inputs.resources:
        pieces = Pieces(run, work, work.sizes, say, RunFolder(scratch))
        pieces.note("start", time.monotonic() - started, 0.1)
        say("plan: measuring pieces of the run on this machine")
        for name, measure in PARTS.items():
            begin = time.monotonic()
            measure(pieces)
            say(f"  {name}: {time.monotonic() - begin:.0f} s")
        begin, up = time.monotonic(), pieces.found["ray_start"]
        run.inputs.resources.close()  # at the end of a run it is waited for too
        pieces.note("ray_start", up.value + time.monotonic() - begin, up.sigma)
        return _rates(pieces)


def _ray(pieces: Pieces) -> None:
    """Start it, and see what it has: this machine, unless RAY_ADDRESS names a cluster."""
    with timed(pieces, "ray_start"):
        pieces.run.inputs.start_ray()
    nodes = cluster_nodes()
    pieces.cpus, pieces.gpus = int(nodes.cpus), sum(nodes.gpus)


PARTS: dict[str, Callable[[Pieces], None]] = {
    "training the generator": generator_steps,
    "starting Ray": _ray,
    "sampling": sampling,
    "estimating": estimate,
    "trials and final trainings": trials,
    "evaluating": results,
}


def _rates(pieces: Pieces) -> Rates:
    known, over = table(), table()["overheads"]
    found = pieces.found
    if isinstance(pieces.experiment.generator, ImageFolder):
        found.setdefault("read_image", over["read_image"])
    nothing = {name: NOTHING for name in _MEASURED if name not in found}
    where = "of the cluster" if os.environ.get("RAY_ADDRESS") else "here"
    return Rates(
        hardware=f"{pieces.gpus} GPUs {where}" if pieces.gpus else f"{pieces.cpus} CPUs {where}",
        kind="gpu" if pieces.gpus else "cpu",
        slots=pieces.gpus or pieces.cpus,
        limits=Limits(**known["limits"]),
        chunk=NOTHING,
        stragglers=NOTHING,
        report=over["report"],
        node_start=NOTHING,
        replacement=over["replacement"],
        interruptions=NOTHING,
        data_parallel=known["flops"]["data_parallel"],
        image_bytes=pieces.image_bytes,
        measured_for=fingerprint(pieces.run.experiment, pieces.sizes),
        **{name: measure for name, measure in found.items() if name in _MEASURED},
        **nothing,
    )


_MEASURED = (
    "start",
    "ray_start",
    "generator_start",
    "generator_step",
    "pool_start",
    "jitter",
    "image",
    "read_image",
    "estimate",
    "tune_start",
    "trial",
    "trial_image",
    "update",
    "update_one_side",
    "train_start",
    "final",
    "diagnosis_image",
    "evaluate",
    "test_image",
    "judged_image",
)
