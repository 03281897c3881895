"""A checked run in; seconds per unit of its tasks on this machine out, from short pieces of its stages' own code.

Everything happens in a temporary folder, in the order of a run and in one process, so that what a stage imports counts
for it; samplers and trials are measured with all slots busy, since two on two cores are slower than one.
"""

from __future__ import annotations

import tempfile
import time

from ray_synth.pipeline import Run
from ray_synth.planning.rates import Rates, measured_rates
from ray_synth.planning.work import Work
from ray_synth.runs import RunFolder
from ray_synth.stages.bench import Bench, joins_cluster


def calibrate(run: Run, work: Work, *, started: float) -> Rates:
    """Measure what the run would do here. started: monotonic time at which the command began.

    Ray is started for as long as this takes, where it is not up.

    Raises:
        InputError: RAY_ADDRESS names a cluster with other machines than this one.
    """
    say = run.inputs.reporter.say
    with tempfile.TemporaryDirectory(prefix="ray_synth-plan-") as scratch, run.inputs.resources:
        bench = Bench(run.inputs, RunFolder(scratch), work.units)
        bench.note("start", time.monotonic() - started, 0.1)
        say("plan: measuring pieces of the run on this machine")
        if joins_cluster():
            bench.start_ray()
        for stage in run.stages.values():
            begin, before = time.monotonic(), set(bench.found)
            stage.calibrate(bench)
            if bench.found.keys() - before:
                say(f"  {stage.name}: {time.monotonic() - begin:.0f} s")
        if "ray_start" in bench.found:
            begin, up = time.monotonic(), bench.found["ray_start"]
            run.inputs.resources.close()  # at the end of a run it is waited for too
            bench.note("ray_start", up.value + time.monotonic() - begin, up.sigma)
        return measured_rates(
            bench.found, run.stages.values(), cpus=bench.cpus, gpus=bench.gpus, image_bytes=bench.image_bytes
        )
