"""The words of `ray-synth plan` in, the plan out: where data and rates come from, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_synth.data.published import data_are_here
from ray_synth.errors import InputError
from ray_synth.hardware.gpus import Card, card_here, gpu_named
from ray_synth.pipeline import Run, folder_of, loaded
from ray_synth.planning.rates import Rates, gpu_rates, load_rates, priced, save_rates
from ray_synth.planning.work import Work, work_of
from ray_synth.progress import Reporter
from ray_synth.stages import stages_until

if TYPE_CHECKING:
    from ray_synth.planning.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Request:
    """The words of `ray-synth plan`. Without gpu and rates, this machine is measured."""

    experiment: str | os.PathLike[str]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    out: str | None = None
    until: str | None = None
    smoke: bool = False
    without_data: bool = False
    gpu: str | None = None
    rates: Path | None = None
    calibrate: bool = False
    save_rates: Path | None = None
    nodes: Sequence[int] = (1,)
    gpus_per_node: int | None = None
    spot_interruptions: float | None = None
    price: float | None = None


def parse_nodes(text: str) -> list[int]:
    """`1,2,4,8` -> [1, 2, 4, 8]. Raises InputError."""
    from ray_synth.planning.plan import check_nodes

    try:
        nodes = [int(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"--nodes takes whole numbers, got {text!r}; type --nodes 1,2,4,8") from None
    check_nodes(nodes)
    return nodes


def plan_for(request: Request, reporter: Reporter, *, started: float) -> Plan:
    """Writes nothing into the run folder. started: monotonic time at which the command began.

    Raises:
        InputError: wrong input, or no rates to plan with.
    """
    from ray_synth.planning.plan import plan

    _check(request)
    experiment = loaded(
        request.experiment,
        overrides=request.overrides,
        seed=request.seed,
        smoke=request.smoke,
        reporter=reporter,
    )
    elsewhere = request.gpu is not None or request.rates is not None
    described = request.without_data or (elsewhere and not data_are_here(experiment.data))
    run = Run(
        experiment,
        folder_of(experiment, request.out, request.experiment),
        reporter,
        described=described,
        gpu=lambda: _card(request),
    )
    with run.inputs.resources:
        run.folder.check_free_for(experiment)
        work = work_of(run, request.until)
        if elsewhere:
            rates = _known(request, run)
        else:
            run.check_places()  # what is measured here must find room here
            rates = _measured(request, work, run, started)
    rates = priced(
        rates,
        price=request.price,
        spot_interruptions=request.spot_interruptions,
        gpus_per_node=request.gpus_per_node,
    )
    return plan(work, rates, request.nodes, seed=experiment.seed)


def _check(request: Request) -> None:
    ways = {"--gpu": request.gpu, "--rates": request.rates, "--calibrate": request.calibrate or None}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} exclude each other: rates come from one place; leave one out")
    if request.save_rates is not None and (request.gpu or request.rates):
        raise InputError(f"--save-rates keeps what was measured here; leave {given[0]} out")
    if request.without_data and not (request.gpu or request.rates):
        raise InputError("--without-data leaves nothing to measure with; add --gpu NAME or --rates FILE")
    stages_until(request.until, said="--until")
    if request.gpus_per_node is not None and not 1 <= request.gpus_per_node <= 64:
        raise InputError(
            f"--gpus-per-node must be between 1 and 64, got {request.gpus_per_node}; type --gpus-per-node 8"
        )


def _card(request: Request) -> Card | None:
    """What the run would be done on: the GPU that is asked about, or one of this machine. Of a file's rates nobody
    knows."""
    if request.gpu is not None:
        return gpu_named(request.gpu).card
    return card_here() if request.rates is None else None


def _known(request: Request, run: Run) -> Rates:
    """Published ones, or those of a file."""
    if request.gpu is not None:
        return gpu_rates(request.gpu, run.stages.values(), gpus_per_node=request.gpus_per_node)
    return load_rates(request.rates or "").holding_for(run.stages.values())


def _measured(request: Request, work: Work, run: Run, started: float) -> Rates:
    from ray_synth.planning.calibrate import calibrate

    rates = calibrate(run, work, started=started)
    if request.save_rates is not None:
        save_rates(rates, request.save_rates)
        run.inputs.reporter.say(f"rates: {request.save_rates}")
    return rates
