"""The workers of one training: what each knows of the others, and their start on Ray Train."""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from ray_synth.errors import InputError, WorkError
from ray_synth.hardware.machine import short_of_memory

WORKER_DEATHS = 3  # of workers or their machines with nothing new between, after which the work has failed
Given = TypeVar("Given")


@dataclass(frozen=True, kw_only=True)
class Team:
    """The workers of one training, and this one's device. `prepare` wraps the model (Ray Train's prepare_model);
    `report` waits for the others and tells Ray Train; `shown` is called after each update, with its number, that of
    all, and the share of the time that was waited for images (None: they are in memory)."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    prepare: Callable[[nn.Module], nn.Module] = field(default=lambda model: model)
    report: Callable[[dict[str, Any]], None] = field(default=lambda found: None)
    shown: Callable[[int, int, float | None], None] = field(default=lambda done, updates, waited: None)

    def share(self, count: int) -> torch.Tensor:
        """Which of `count` things are this worker's. All have as many, and what is `gathered` of them holds the things
        in their order, with some of them again behind the last one."""
        each = -(-count // self.size)
        return torch.arange(self.rank * each, (self.rank + 1) * each) % count

    def gathered(self, part: torch.Tensor) -> torch.Tensor:
        """Every worker's part, one after the other: the own one alive, the others as constants."""
        if self.size == 1:
            return part
        import torch.distributed as dist

        parts = [torch.empty_like(part) for _ in range(self.size)]
        dist.all_gather(parts, part.detach().contiguous())
        parts[self.rank] = part
        return torch.cat(parts)

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give each the mean of all workers' in place."""
        if self.size == 1 or not tensors:
            return
        import torch.distributed as dist

        together = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(together)
        together /= self.size
        for tensor, mean in zip(tensors, together.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def told(self, found: Callable[[], np.ndarray]) -> np.ndarray:
        """What the first worker found, on all; the others wait for it."""
        if self.size == 1:
            return found()
        import torch.distributed as dist

        mine = found() if self.rank == 0 else np.zeros(0)
        described = [(mine.shape, str(mine.dtype))]
        dist.broadcast_object_list(described, src=0, device=self.device)
        shape, dtype = described[0]
        told = torch.from_numpy(mine if self.rank == 0 else np.empty(shape, dtype)).to(self.device)
        dist.broadcast(told, src=0)
        return np.asarray(told.cpu().numpy())

    def agreed(self, number: float) -> float:
        """The first worker's number, on all: what they decide by it they decide together."""
        if self.size == 1:
            return number
        import torch.distributed as dist

        shared = torch.tensor([number], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, src=0)
        return float(shared)


def train_team() -> Team:
    """The workers of the Ray Train run that this process belongs to."""
    import ray.train
    from ray.train.torch import get_device, prepare_model

    context = ray.train.get_context()
    return Team(
        rank=context.get_world_rank(),
        size=context.get_world_size(),
        device=get_device(),
        prepare=prepare_model,
        report=ray.train.report,
    )


def check_workers(key: str, num_workers: int, cpus: float, gpus: int) -> None:
    """Raise InputError for more workers than there are, or could be, GPUs; where there are none, CPUs. key: the
    setting."""
    slots = gpus or int(cpus)
    if num_workers > slots:
        raise InputError(
            f"{key} must be <= {slots}, the {'GPUs' if gpus else 'CPUs'} that there can be here, got {num_workers}; "
            f"type --set {key}={slots}, or raise max_workers in cluster.yaml"
        )


def run_team(
    work: Callable[[Given, Team], None],
    given: Given,
    *,
    what: str,
    num_workers: int,
    on_gpus: bool,
    kept: Callable[[], object],
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Call `work(given, team)` on each of Ray Train's workers, which hold a GPU or a CPU each. Ray must be up.

    A team that lost a worker begins again, WORKER_DEATHS times, and for as long as it gets further between its deaths.

    Args:
        given: put into Ray's object store once.
        what: `a final training`, for the message.
        kept: changes whenever the work keeps something.
        meanwhile: called twice a second.

    Raises:
        WorkError: workers died, or the work raised, and nothing new was kept.
    """
    if num_workers == 1 and not on_gpus and short_of_memory():
        _run_alone(work, given, what=what, kept=kept, meanwhile=meanwhile)
        return
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    shared = {"work": work, "given": ray.put(given)}
    with tempfile.TemporaryDirectory(prefix="ray_synth-train-") as scratch:
        for attempt in itertools.count():
            before = kept()
            trainer = TorchTrainer(
                _member,
                train_loop_config=shared,
                scaling_config=ScalingConfig(
                    num_workers=num_workers, use_gpu=on_gpus, resources_per_worker=None if on_gpus else {"CPU": 1}
                ),
                run_config=RunConfig(
                    name=f"team-{attempt}",
                    storage_path=scratch,
                    failure_config=FailureConfig(max_failures=WORKER_DEATHS),
                ),
            )
            try:
                _waiting(trainer.fit, meanwhile)
                return
            except TrainingFailedError as error:
                if kept() != before:
                    continue
                failures = [str(failure).strip() for failure in getattr(error, "worker_failures", {}).values()]
                reason = next((failure.splitlines()[-1] for failure in failures if failure), str(error))
                raise WorkError(f"{what} failed: {reason}") from error


def _run_alone(
    work: Callable[[Given, Team], None],
    given: Given,
    *,
    what: str,
    kept: Callable[[], object],
    meanwhile: Callable[[], None],
) -> None:
    """One worker without Ray Train, whose own processes take half a gigabyte."""
    import ray

    task, shared, deaths = ray.remote(num_cpus=1, max_retries=0)(work), ray.put(given), 0
    while True:
        before, running = kept(), task.remote(shared, Team())
        try:
            while not ray.wait([running], timeout=0.5)[0]:
                meanwhile()
            ray.get(running)
        except ray.exceptions.RayTaskError as error:
            raise WorkError(f"{what} failed: {str(error.cause).strip() or type(error.cause).__name__}") from error
        except ray.exceptions.RayError as error:
            deaths = 1 if kept() != before else deaths + 1
            if deaths > WORKER_DEATHS:
                raise WorkError(f"{what} failed: {str(error).strip().splitlines()[0]}") from error
            continue
        meanwhile()
        return


def _member(shared: Mapping[str, Any]) -> None:
    import ray

    shared["work"](ray.get(shared["given"]), train_team())


def _waiting(work: Callable[[], object], meanwhile: Callable[[], None]) -> None:
    """Do `work` in a thread and call `meanwhile` twice a second.

    Not in the main thread: there Ray Train takes Ctrl-C for itself and answers it with exit code 0.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)
        meanwhile()
    if errors:
        raise errors[0]
