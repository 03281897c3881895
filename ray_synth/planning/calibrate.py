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

from ray_synth.errors import InputError
from ray_synth.nodes import Nodes, cluster_nodes
from ray_synth.planning.calibration.classification import estimate, results, trials
from ray_synth.planning.calibration.generation import generator_steps, reading, sampling
from ray_synth.planning.calibration.pieces import Pieces, timed
from ray_synth.planning.rates import NOTHING, UNMEASURED, Limits, Rates, fingerprint, images_of, table
from ray_synth.planning.work import Work
from ray_synth.runs import RunFolder

if TYPE_CHECKING:
    from ray_synth.pipeline import Run


def calibrate(run: Run, work: Work, *, started: float, say: Callable[[str], None] = lambda text: None) -> Rates:
    """Measure what the run would do here. started: monotonic time at which the command began.

    Ray is started for as long as this takes, where it is not up.

    Raises:
        InputError: RAY_ADDRESS names a cluster with other machines than this one.
    """
    with tempfile.TemporaryDirectory(prefix="ray_synth-plan-") as scratch, run.inputs.resources:
        pieces = Pieces(run, work, work.sizes, say, RunFolder(scratch))
        pieces.note("start", time.monotonic() - started, 0.1)
        say("plan: measuring pieces of the run on this machine")
        for name, measure in _in_turn():
            begin = time.monotonic()
            measure(pieces)
            say(f"  {name}: {time.monotonic() - begin:.0f} s")
        begin, up = time.monotonic(), pieces.found["ray_start"]
        run.inputs.resources.close()  # at the end of a run it is waited for too
        pieces.note("ray_start", up.value + time.monotonic() - begin, up.sigma)
        return _rates(pieces)


def _in_turn() -> list[tuple[str, Callable[[Pieces], None]]]:
    """The parts as a run has them; a cluster is joined first, since it may be refused."""
    joins = bool(os.environ.get("RAY_ADDRESS"))
    return sorted(PARTS.items(), key=lambda part: joins and part[1] is not _ray)


def _ray(pieces: Pieces) -> None:
    """Start it, and see what it has."""
    with timed(pieces, "ray_start"):
        pieces.run.inputs.start_ray()
    nodes = cluster_nodes()
    _refuse_others(nodes)
    pieces.cpus, pieces.gpus = int(nodes.cpus), sum(nodes.gpus)


def _refuse_others(nodes: Nodes) -> None:
    """What is measured lies in a temporary folder, which other machines do not see, and counts for one node."""
    up = len(nodes.gpus)
    if up > 1 or nodes.grows:
        has = f"has {up} machines" if up > 1 else "adds machines"
        raise InputError(
            f"a calibration measures one machine, and the cluster of RAY_ADDRESS {has}; type --gpu NAME or --rates "
            "FILE with --nodes, or unset RAY_ADDRESS on one of its machines and type --save-rates FILE there"
        )


PARTS: dict[str, Callable[[Pieces], None]] = {
    "training the generator": generator_steps,
    "starting Ray": _ray,
    "sampling": sampling,
    "reading images back": reading,
    "estimating": estimate,
    "trials and final trainings": trials,
    "evaluating": results,
}


def _rates(pieces: Pieces) -> Rates:
    known, over = table(), table()["overheads"]
    e, sizes = pieces.run.experiment, pieces.sizes
    return Rates(
        hardware=f"{pieces.gpus} GPUs here" if pieces.gpus else f"{pieces.cpus} CPUs here",
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
        measured_for=fingerprint(e, sizes),
        measured_on=images_of(e, sizes),
        **{name: pieces.found.get(name, UNMEASURED) for name in _MEASURED},
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
