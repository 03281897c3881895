"""Results in, matplotlib figures out; `as_svg` gives what a page can hold, `write_picture` a file."""

from __future__ import annotations

import io
import os
import textwrap
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogFormatter

from ray_synth.bound.result import ClassEstimate, RatioEstimate, Spectra
from ray_synth.bound.theorem import risk_bound
from ray_synth.errors import InputError
from ray_synth.report.fonts import families_for, missing_in, spell
from ray_synth.report.methods import NAMES, class_said, classes_differ, in_order
from ray_synth.runs import RunFolder

if TYPE_CHECKING:
    from ray_synth.sweep.ledger import Trial

INK, BLUE, ORANGE, GREY, RED, GREEN = "#22252b", "#2f6fb2", "#d9822b", "#9aa1ab", "#b3372f", "#3a8f5c"
PICTURES = (".png", ".svg", ".pdf")
JOINERS = "\u200c\u200d"  # which letters of Persian, Hindi and others are written with
NO_DATE: Any = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # of an SVG: equal figures are equal bytes
STYLE: Any = {  # the stubs want each key to be a literal
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "ray_synth",
    "text.color": INK,
    "text.parse_math": False,  # names are text, whatever dollars they hold
}


def style_for(texts: Iterable[str]) -> Any:
    """The style, with fonts that have the letters of these texts."""
    return {**STYLE, "font.family": families_for(texts)}


def ratio_curve(
    estimate: RatioEstimate,
    trials: Sequence[Trial],
    best_ratio: float,
    predicted_ratio: float,
    generator: str | None = None,
    *,
    real_share: float = 1.0,
) -> Figure:
    """Error of the sweep's trials over the ratio, with the predicted curve, its band and the interval on it.

    generator: of several, the one that the prediction is of; trials with the others' images are grey. real_share: of
    the real images, that trials took.
    """
    size = "" if real_share == 1 else f" on {100 * real_share:.3g} % of the images"
    own = [trial for trial in trials if trial.setting.says_of(generator)]
    others = [trial for trial in trials if not trial.setting.says_of(generator)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.6), layout="constrained")
        axes = figure.add_subplot()
        _draw_prediction(axes, estimate, predicted_ratio)
        kinds = [
            (own, "complete", "o", ORANGE, f"trial{size} (validation error)"),
            (own, "pruned", "x", GREY, "trial stopped early"),
        ]
        if others:
            kinds.append((others, "complete", "o", GREY, "trial with another generator's images"))
        for drawn, status, marker, color, label in kinds:
            rows = [trial for trial in drawn if trial.status == status]
            x = [np.log2(1 + trial.setting.synthetic_ratio) for trial in rows]
            axes.scatter(
                x, [1 - trial.accuracy for trial in rows], marker=marker, color=color, s=30, zorder=3, label=label
            )
        axes.axvline(np.log2(1 + best_ratio), color=ORANGE, lw=1.4, ls=":", label=f"swept best ratio {best_ratio:.3g}")
        _ratio_ticks(axes, estimate.curve.ratio[-1])
        axes.set_xlabel("synthetic images per real image (synthetic_ratio)")
        axes.set_ylabel("classification error")
        axes.set_ylim(bottom=0)
        _draw_bound(axes, estimate)
        figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    return figure


def estimate_picture(estimate: RatioEstimate, class_names: Sequence[str] = ()) -> Figure:
    """One picture of a prediction: its curve over every method's own ratio, the spectra, and the worst classes."""
    with matplotlib.rc_context(style_for((*class_names, estimate.reason, *estimate.warnings))):
        classes = estimate.classes[:12]
        said = [line for warning in estimate.warnings for line in textwrap.wrap(f"Warning: {warning}", 130)]
        lower = 0.9 + 0.27 * max(len(classes), 6) + 0.2 * len(said)
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
        figure = Figure(figsize=(10.5, 5.6 + lower), layout=layout)
        above, below = figure.subfigures(2, 1, height_ratios=(4.9, lower + 0.7), squeeze=False)[:, 0]
        curve, own = above.subplots(2, 1, sharex=True, height_ratios=(3.2, 1.3))
        spectra, worst = below.subplots(1, 2, width_ratios=(1, 1.5))
        low, high = estimate.interval
        above.suptitle(
            f"Predicted ratio: {_short(estimate.ratio)} synthetic images per real one "
            f"({estimate.confidence:.0%} interval {_short(low)} to {_short(high)})\n"
            + textwrap.fill(f"{estimate.verdict}: {estimate.reason}", 110),
            fontsize=11,
        )
        _draw_curve(curve, estimate)
        _draw_own_ratios(own, estimate)
        _draw_spectra(spectra, estimate.spectra)
        _draw_classes(worst, classes, estimate, class_names)
        if said:
            below.supxlabel("\n".join(said), x=0.02, ha="left", fontsize=8.5, color=RED)
    return figure


def _draw_prediction(axes: Axes, estimate: RatioEstimate, ratio: float) -> None:
    """The predicted curve over log2(1 + ratio) in its band, the interval and the pick."""
    curve = estimate.curve
    u = np.log2(1 + np.asarray(curve.ratio))
    low, high = np.log2(1 + np.asarray(estimate.interval))
    share = f"({estimate.confidence:.0%})"
    axes.axvspan(low, high, color=BLUE, alpha=0.10, lw=0, label=f"predicted interval {share}")
    axes.plot(u, curve.error, color=BLUE, lw=1.8, label="predicted error of the probe")
    axes.fill_between(u, curve.low, curve.high, color=BLUE, alpha=0.16, lw=0, label=f"its band {share}")
    axes.axvline(np.log2(1 + ratio), color=BLUE, lw=1.4, ls="--", label=f"predicted ratio {ratio:.3g}")


def _draw_bound(axes: Axes, estimate: RatioEstimate) -> None:
    """The closed form's bound beside the prediction, over its least, on an axis of its own: its constants are unknown.

    Boldly with the paper's own proxies (Shidani et al., 2025, section 6), thinly with the other discrepancies.
    """
    proxies = estimate.methods.get("closed_form", {}).get("proxies", ())
    shown = [row for row in proxies if (row["noise"], row["decay"]) == (proxies[0]["noise"], proxies[0]["decay"])]
    if not shown:
        return
    top = estimate.max_ratio
    ratios = np.exp2(np.linspace(np.log2(1 + top / 200), np.log2(1 + top), 200)) - 1
    beside = axes.twinx()
    for number, row in enumerate(shown):
        bound = risk_bound(
            ratios,
            discrepancy=row["distance"],
            noise_variance=row["noise_variance"],
            num_real=estimate.num_real,
            decay=row["exponent"],
        )
        others = ", ".join(each["discrepancy"] for each in shown[1:])
        label = {0: f"bound by {row['discrepancy']}, over its least (right)", 1: f"the same by {others}"}.get(number)
        width = 0.7 if number else 1.6
        beside.plot(np.log2(1 + ratios), bound / np.min(bound), color=GREEN, lw=width, label=label)
    beside.set_yscale("log")
    beside.set_ylim(0.9, 100)
    plain_logarithm(beside.yaxis)
    beside.spines["right"].set_visible(True)
    beside.spines["right"].set_color(GREEN)
    beside.set_ylabel("bound over its least", color=GREEN)


def _draw_curve(axes: Axes, estimate: RatioEstimate) -> None:
    _draw_prediction(axes, estimate, estimate.ratio)
    curve, top = estimate.curve, np.log2(1 + estimate.max_ratio)
    low, high = min(curve.low), max(curve.high)
    probe = estimate.methods.get("probe")
    if probe and estimate.num_real == estimate.num_real_given:  # else the curve is of a larger real set
        measured = 1 - np.asarray(probe["accuracy"])
        u = np.log2(1 + np.asarray(probe["grid"]))
        axes.plot(u, measured, ".", color=INK, ms=5, zorder=3, label="probe, as measured")
        low, high = min(low, measured.min()), max(high, measured.max())
    room = 0.06 * max(high - low, 0.01)
    axes.set_ylim(max(low - room, -0.002), high + room)
    axes.set_xlim(-0.02 * top, 1.02 * top)
    axes.set_ylabel("predicted test error")
    axes.tick_params(labelbottom=False)
    axes.legend(frameon=False, fontsize=8.5, loc="lower left", bbox_to_anchor=(0, 1), ncols=5, borderaxespad=0.2)


def _draw_own_ratios(axes: Axes, estimate: RatioEstimate) -> None:
    """A row per method, so that answers may coincide or lie at the ends; each says its number beside its mark."""
    methods = estimate.methods
    names = in_order(methods)
    top = np.log2(1 + estimate.max_ratio)
    low, high = np.log2(1 + np.asarray(estimate.interval))
    axes.axvspan(low, high, color=BLUE, alpha=0.10, lw=0)
    axes.axvline(np.log2(1 + estimate.ratio), color=BLUE, lw=1.4, ls="--")
    for row, name in enumerate(names):
        ratio = float(methods[name]["ratio"])
        u, color = np.log2(1 + ratio), BLUE if name == "probe" else ORANGE
        left = u > 0.8 * top
        axes.axhline(row, color=GREY, lw=0.5, alpha=0.5, zorder=0)
        axes.plot(u, row, marker="D", color=color, ms=6, clip_on=False, zorder=3)
        axes.annotate(
            _short(ratio) + (" (the largest considered)" if ratio >= estimate.max_ratio else ""),
            (u, row),
            xytext=(-9 if left else 9, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=8.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8},
        )
    axes.set_yticks(range(len(names)), [NAMES.get(name, name) for name in names])
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    _ratio_ticks(axes, estimate.max_ratio)
    axes.set_xlabel("each method's own best ratio: synthetic images per real image")


def _ratio_ticks(axes: Axes, top: float) -> None:
    """Ticks that read as ratios on an axis of log2(1 + ratio)."""
    powers = [0.0, *(2.0 ** np.arange(-1, 11))]
    ticks = [ratio for ratio in powers if ratio <= top * 1.001] if top >= 1 else list(np.linspace(0, top, 5))
    axes.set_xticks(np.log2(1 + np.asarray(ticks)), [f"{ratio:.3g}" for ratio in ticks])


def _draw_spectra(axes: Axes, spectra: Spectra) -> None:
    frequency = np.asarray(spectra.frequency)
    for side, color, style in (("real", INK, "-"), ("synthetic", ORANGE, "--")):
        power = np.asarray(getattr(spectra, side))
        seen = (frequency > 0) & (power > 0)  # what a logarithm can show: nothing of images of one colour
        axes.plot(frequency[seen], power[seen], color=color, ls=style, lw=1.6, marker=".", ms=4, label=side)
    if any(np.size(line.get_xdata()) for line in axes.get_lines()):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        plain_logarithm(axes.xaxis)
        plain_logarithm(axes.yaxis)
        axes.xaxis.set_major_formatter(lambda f, _: f"1/{1 / f:g}")
    else:
        axes.set(xticks=[], yticks=[])
    axes.set_title("Power spectra (radially averaged)", fontsize=10)
    axes.set_xlabel("cycles per pixel")
    axes.set_ylabel("power")
    axes.legend(frameon=False, fontsize=8.5)


def plain_logarithm(axis: Axis) -> None:
    """Powers at its ticks as plain text: formulas are not read."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))


def _draw_classes(
    axes: Axes, classes: Sequence[ClassEstimate], estimate: RatioEstimate, class_names: Sequence[str]
) -> None:
    """A row per class: recall with real data only (ring) and at the pick (dot), its best ratio and distance."""
    total = len(estimate.classes)
    shown = f"Worst {len(classes)} of {total} classes" if total > len(classes) else "Classes, worst first"
    if not classes_differ(estimate):
        shown = "Classes: none stands out"
    axes.set_title(f"{shown}\n○ real data only   ● at ratio {_short(estimate.ratio)}", fontsize=10, loc="left")
    rows = np.arange(len(classes))
    alone = [each.recall_real_only for each in classes]
    there = [each.recall for each in classes]
    axes.hlines(rows, alone, there, color=GREY, lw=1.5, zorder=1)
    axes.scatter(alone, rows, s=62, facecolor="white", edgecolor=INK, clip_on=False, zorder=2)
    axes.scatter(there, rows, s=22, color=BLUE, clip_on=False, zorder=3)
    axes.set_yticks(rows, [_plain(class_said(each.label, class_names)) for each in classes])
    axes.set_ylim(max(len(classes), 6) - 0.5, -0.6)
    least = np.floor(10 * min([*alone, *there, 0.9])) / 10
    axes.set_xlim(least - 0.02 * (1 - least), 1 + 0.02 * (1 - least))
    axes.set_xlabel("recall")
    axes.tick_params(axis="y", length=0)
    for row, each in enumerate(classes):
        ratio = _short(each.ratio) if each.num_synthetic else "none made"
        _beside(axes, row, ratio, "–" if each.distance is None else _short(each.distance))
    _beside(axes, -0.75, "its own\nbest ratio", "distance\nof its sets", va="bottom")


def _beside(axes: Axes, row: float, *columns: str, va: str = "center") -> None:
    """Text to the right of the axes, in columns of one width whatever the width of the axes."""
    for number, text in enumerate(columns, start=1):
        axes.annotate(
            text,
            (1, row),
            xycoords=axes.get_yaxis_transform(),
            xytext=(64 * number, 0),
            textcoords="offset points",
            ha="right",
            va=va,
            fontsize=8.5,
        )


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def _plain(name: str, most: int = 20) -> str:
    """A class name that can stand in a picture: no control characters, not too long."""
    shown = "".join(
        "?" if unicodedata.category(letter).startswith("C") and letter not in JOINERS else letter for letter in name
    )
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def check_picture(path: str | os.PathLike[str]) -> None:
    """Refuse a file that `write_picture` could not write, before the work that leads to it.

    Raises:
        InputError: another suffix, a folder that is not there or not writable, a folder in the file's place.
    """
    file = Path(path)
    if file.is_dir():
        raise InputError(f"{file} is a folder; type --plot {file / 'estimate.png'}")
    if file.suffix.lower() not in PICTURES:
        raise InputError(
            f"a picture must end in {', '.join(PICTURES)}, got {str(path)!r}; type --plot {file.parent / file.stem}.png"
        )
    if not file.parent.is_dir():
        raise InputError(f"no folder {file.parent} for the picture {file.name}; type mkdir -p {file.parent}")
    if not os.access(file.parent, os.W_OK):
        raise InputError(f"folder {file.parent} is not writable; type --plot {file.name} to write here")


def write_picture(figure: Figure, path: str | os.PathLike[str]) -> list[str]:
    """Write a figure whole or not at all, in the format of the suffix; notes say what had to be drawn otherwise."""
    file = Path(path)
    buffer, kind, notes = io.BytesIO(), file.suffix[1:].lower(), list[str]()
    with _drawing(figure) as missing:
        if missing and kind != "svg":
            spell(figure, missing)
            shown = missing if len(missing) <= 10 else f"{missing[:10]}..."
            notes.append(
                f"no font on this machine has {shown}: such letters are drawn as their codes; type --plot "
                f"{file.with_suffix('.svg')}, which is drawn with the fonts of whoever opens it, or install a font"
            )
        figure.savefig(buffer, format=kind, dpi=130)
    RunFolder(file.parent.absolute()).write(file.name, buffer.getvalue())
    return notes


@contextmanager
def _drawing(figure: Figure) -> Iterator[str]:
    """Around saving a figure: letters that no font here has stay text in an SVG. Yields those letters."""
    missing = missing_in(figure)
    style: Any = {**STYLE, "svg.fonttype": "none" if missing else "path"}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # where a figure is laid out
        yield missing


def as_svg(figure: Figure) -> str:
    """The <svg> element, without a date, so that equal figures are equal bytes."""
    buffer = io.StringIO()
    with _drawing(figure):
        figure.savefig(buffer, format="svg", metadata=NO_DATE)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
