"""A plan's numbers in, how they are said and drawn out: the scaling curve of wall time and money over nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNITS = ((2 * 86_400.0, 86_400.0, "days"), (7200.0, 3600.0, "h"), (120.0, 60.0, "min"), (0.0, 1.0, "s"))


def seconds_said(interval: Mapping[str, float]) -> str:
    """`12 min (10 to 15)`: the median, and the interval in its unit."""
    _, unit, name = next(row for row in UNITS if interval["median"] >= row[0])
    digits = 0 if unit == 1.0 or interval["median"] / unit >= 20 else 1
    low, median, high = (f"{interval[end] / unit:,.{digits}f}" for end in ("low", "median", "high"))
    return f"{median} {name}" if low == high else f"{median} {name} ({low} to {high})"


def number_said(interval: Mapping[str, float]) -> str:
    """`1,399 (1,081 to 1,620)`, in three digits where it is small."""
    low, median, high = (
        f"{interval[end]:,.0f}" if interval[end] >= 100 else f"{interval[end]:.2g}" for end in ("low", "median", "high")
    )
    return median if low == high else f"{median} ({low} to {high})"


def money_said(interval: Mapping[str, float]) -> str:
    """`$10,468 (8,274 to 13,202)`."""
    digits = 0 if interval["median"] >= 100 else 2
    low, median, high = (f"{interval[end]:,.{digits}f}" for end in ("low", "median", "high"))
    return f"${median}" if low == high else f"${median} ({low} to {high})"


def bytes_said(count: float) -> str:
    for name in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {name}" if name == "bytes" else f"{count:.3g} {name}"
        count /= 1000
    return f"{count:.3g} TB"


def scaling_picture(plan: Mapping[str, Any]) -> Figure:
    """Wall time, and money where there are prices, over the number of nodes; where the curve bends is marked."""
    import matplotlib
    from matplotlib.figure import Figure

    from ray_synth.report.plots import BLUE, GREY, ORANGE, STYLE, plain_logarithm

    points = plan["scaling"]
    nodes = [point["nodes"] for point in points]
    priced = points[0]["money"] is not None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.6), layout="constrained")
        time, *rest = figure.subplots(1, 2 if priced else 1, squeeze=False)[0]
        _band(time, nodes, [point["wall"] for point in points], 1 / 3600, BLUE, "on demand")
        _band(time, nodes, [point["wall_spot"] for point in points], 1 / 3600, ORANGE, "spot")
        first = points[0]["wall"]["median"] * nodes[0] / 3600
        time.plot(nodes, [first / count for count in nodes], color=GREY, ls=":", lw=1, label="if all of it scaled")
        time.set_yscale("log")
        plain_logarithm(time.yaxis)
        time.set_ylabel("wall time, hours")
        for money in rest:
            _band(money, nodes, [point["money"] for point in points], 1.0, BLUE, "on demand")
            if points[0]["spot"] is not None:
                _band(money, nodes, [point["spot"] for point in points], 1.0, ORANGE, "spot")
            money.set_ylim(bottom=0)
            money.set_ylabel("dollars")
        for axes in (time, *rest):
            _over_nodes(axes, nodes, plan["bend"])
        figure.suptitle(f"{plan['name']}, {plan['hardware']}", fontsize=10)
    return figure


def _band(
    axes: Axes, nodes: Sequence[int], intervals: Sequence[Mapping[str, float]], unit: float, color: str, label: str
) -> None:
    low, median, high = ([unit * each[name] for each in intervals] for name in ("low", "median", "high"))
    axes.fill_between(nodes, low, high, color=color, alpha=0.18, lw=0)
    axes.plot(nodes, median, color=color, marker="o", ms=4, lw=1.6, label=label)


def _over_nodes(axes: Axes, nodes: Sequence[int], bend: Mapping[str, Any] | None) -> None:
    from ray_synth.report.plots import RED

    axes.set_xscale("log")
    axes.set_xticks(list(nodes), [f"{count:,}" for count in nodes])
    axes.minorticks_off()
    axes.set_xlabel("nodes")
    if bend is not None:
        axes.axvline(bend["nodes"], color=RED, lw=1, ls="--", label=f"bends: {bend['cause']}")
    axes.legend(frameon=False, fontsize=8)
