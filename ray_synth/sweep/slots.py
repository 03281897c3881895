"""A machine's CPUs and GPUs in, how many trials run at once out; a sweep that could not be placed is refused."""

from __future__ import annotations

from dataclasses import dataclass

from ray_synth.config import Sweep
from ray_synth.errors import InputError

WINDOW = 2  # proposals go by results this many times the trials at once ago, so that a slow trial keeps nobody waiting


@dataclass(frozen=True, kw_only=True)
class TrialSlots:
    """How many trials run at once, and what each holds."""

    count: int
    gpus: float  # of one trial
    workers: int  # of Ray Train in one trial

    @classmethod
    def of(cls, settings: Sweep, *, cpus: float, gpus: float) -> TrialSlots:
        """Raises InputError for a sweep that could not be placed."""
        units: float
        each: float
        if settings.workers_per_trial > 1:
            units, each = gpus or cpus, settings.workers_per_trial
        else:
            units, each = (gpus, settings.gpus_per_trial) if gpus else (cpus, 1)
        kind = "GPUs" if gpus else "CPUs"
        # A trial does not lie on two GPUs: of one that takes 0.4, two fit on each.
        slots = int(units) * int(1 / each + 1e-9) if each < 1 else int(units / each + 1e-9)
        if slots < 1:
            raise InputError(
                f"sweep.workers_per_trial must be <= {int(units)}, the {kind} here, got {settings.workers_per_trial}; "
                f"type --set sweep.workers_per_trial={max(1, int(units))}, or raise max_workers in cluster.yaml"
            )
        if settings.concurrency is not None and settings.concurrency > slots:
            raise InputError(
                f"sweep.concurrency must be <= {slots}: there are {units:g} {kind} here and a trial takes {each:g}, "
                f"got {settings.concurrency}; type --set sweep.concurrency={slots}, or leave it out"
            )
        return cls(count=settings.concurrency or slots, gpus=each if gpus else 0.0, workers=settings.workers_per_trial)
