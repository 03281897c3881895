"""Numbers in, charts as inline SVG out: in the page's colours and fonts, each mark with what pointing at it shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import LogLocator, MaxNLocator

WIDTH, HEIGHT = 640.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 16.0, 14.0, 46.0

Values = Sequence[float] | np.ndarray


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From `low` to `high` of `scale`, which rises, with words at its ticks."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    scale: Callable[[float], float] = float

    def place(self, value: float) -> float:
        """In [0, 1] from low to high; what lies beyond an end is drawn at it."""
        low, high = self.scale(self.low), self.scale(self.high)
        return min(1.0, max(0.0, (self.scale(value) - low) / max(high - low, 1e-12)))


def number(value: float) -> str:
    """Three digits; whole thousands in full."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def percent(value: float) -> str:
    """A share as `12.5 %`."""
    return f"{100 * value:.3g} %"


def linear_axis(
    label: str, values: Iterable[float], said: Callable[[float], str] = number, *, snug: bool = False
) -> Axis:
    """Over all finite values, to round numbers at both ends; snug: to the values themselves."""
    finite = [float(value) for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    room = (high - low) or abs(high) or 1.0
    locator = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10])
    ticks = np.asarray(locator.tick_values(low - 0.02 * room, high + 0.02 * room))
    if low >= 0:
        ticks = ticks[ticks > -1e-12]
    if snug and high > low:
        ticks = ticks[(ticks >= low) & (ticks <= high)]
    ends = (low, high) if snug and high > low else (float(ticks[0]), float(ticks[-1]))
    return Axis(label=label, low=ends[0], high=ends[1], ticks=tuple((float(t), said(float(t))) for t in ticks))


def ratio_axis(top: float, label: str = "synthetic images per real image") -> Axis:
    """Ratios from 0 to `top` by their log2(1 + ratio)."""
    powers = [0.0, *(2.0 ** np.arange(0, 11))]
    ticks = [ratio for ratio in powers if ratio <= top * 1.001] if top >= 1 else [*np.linspace(0, top, 5)]
    return Axis(
        label=label,
        low=0.0,
        high=max(float(top), 1e-3),
        ticks=tuple((float(ratio), number(float(ratio))) for ratio in ticks),
        scale=_log_of_ratio,
    )


def log_axis(label: str, values: Iterable[float], said: Callable[[float], str] = number, *, base: float = 10) -> Axis:
    """Over all positive values, by their logarithm, with ticks at powers of the base, or between them."""
    positive = [float(value) for value in values if value > 0 and math.isfinite(value)] or [0.1, 1.0]
    low = min(positive)
    high = max(positive) if max(positive) > low else 10 * low
    for parts in ((1.0,), (1.0, 2.0, 5.0)):
        found = LogLocator(base=base, subs=parts, numticks=7).tick_values(low, high)
        ticks = [float(tick) for tick in found if low * 0.9999 <= tick <= high * 1.0001]
        if len(ticks) > 1:
            break
    ends = ticks if len(ticks) > 1 else [low, high]
    return Axis(label=label, low=low, high=high, ticks=tuple((t, said(t)) for t in ends), scale=math.log)


def _log_of_ratio(ratio: float) -> float:
    return math.log2(1 + ratio)


@dataclass(kw_only=True)
class Chart:
    """Marks over two axes, later ones above earlier ones.

    kind: the class of a mark: its colour (blue, orange, green, red, grey, ink) and, if wanted, `dashed` or `thin`. A
    label goes to the legend. Points that are not finite are left out.
    """

    x: Axis
    y: Axis
    height: float = HEIGHT
    marks: list[Markup] = field(default_factory=list)
    legend: dict[str, str] = field(default_factory=dict)  # label -> kind of mark

    def line(self, x: Values, y: Values, kind: str, label: str = "") -> None:
        points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
        if points:
            path = "L".join(f"{self.across(a):.1f} {self.up(b):.1f}" for a, b in points)
            self._add(Markup('<path class="line {}" d="M{}"/>').format(kind, path), f"line {kind}", label)

    def band(self, x: Values, low: Values, high: Values, kind: str, label: str = "") -> None:
        there = [f"{self.across(a):.1f} {self.up(b):.1f}" for a, b in zip(x, high, strict=True)]
        back = [f"{self.across(a):.1f} {self.up(b):.1f}" for a, b in zip(x, low, strict=True)]
        path = "L".join([*there, *reversed(back)])
        self._add(Markup('<path class="band {}" d="M{}Z"/>').format(kind, path), f"band {kind}", label)

    def span(self, low: float, high: float, kind: str, label: str = "") -> None:
        """A stretch of the x axis, from below to above."""
        x, width = self.across(low), self.across(high) - self.across(low)
        mark = Markup('<rect class="band {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
        self._add(mark.format(kind, x, TOP, max(width, 1.0), self._inner), f"band {kind}", label)

    def rule(self, x: float, kind: str, label: str = "") -> None:
        """An upright line."""
        mark = Markup('<path class="line {}" d="M{:.1f} {:.1f}V{:.1f}"/>')
        self._add(mark.format(kind, self.across(x), TOP, TOP + self._inner), f"line {kind}", label)

    def dots(
        self, x: Values, y: Values, kind: str, label: str = "", tips: Sequence[str] = (), groups: Sequence[int] = ()
    ) -> None:
        """tips: what each dot says. groups: a number of each, by which the page can show some alone."""
        for place, (a, b) in enumerate(zip(x, y, strict=True)):
            if not (math.isfinite(a) and math.isfinite(b)):
                continue
            tip = Markup(' data-tip="{}"').format(tips[place]) if tips else ""
            group = Markup(' data-group="{}"').format(groups[place]) if len(groups) else ""
            mark = Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="{}"{}{}/>')
            radius = 2.6 if "small" in kind else 4
            self.marks.append(mark.format(kind, self.across(a), self.up(b), radius, tip, group))
        if label and len(x):
            self.legend[label] = f"dot {kind}"

    def whisker(self, x: float, low: float, high: float, kind: str) -> None:
        mark = Markup('<path class="line {}" d="M{:.1f} {:.1f}V{:.1f}"/>')
        self.marks.append(mark.format(kind, self.across(x), self.up(low), self.up(high)))

    def svg(self, says: str) -> Markup:
        """The chart in a figure with its legend. says: what it shows, for who does not see it."""
        head = Markup('<svg class="plot" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">').format(
            WIDTH, self.height, says
        )
        legend = Markup("").join(
            Markup('<li><i class="{}"></i>{}</li>').format(kind, label) for label, kind in self.legend.items()
        )
        key = Markup('<ul class="legend">{}</ul>').format(legend) if legend else ""
        body = Markup("").join([self._axes(), *self.marks])
        caption = Markup("<figcaption>{}</figcaption>").format(self.y.label)
        return Markup('<figure class="chart">{}{}{}{}</svg></figure>').format(caption, head, body, key)

    def across(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * self.x.place(value)

    def up(self, value: float) -> float:
        return TOP + self._inner * (1 - self.y.place(value))

    @property
    def _inner(self) -> float:
        return self.height - TOP - BOTTOM

    def _add(self, mark: Markup, kind: str, label: str) -> None:
        self.marks.append(mark)
        if label:
            self.legend[label] = kind

    def _axes(self) -> Markup:
        parts, floor = [], TOP + self._inner
        for value, said in self.y.ticks:
            y = self.up(value)
            parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, y, WIDTH - RIGHT))
            text = Markup('<text class="tick end" x="{}" y="{:.1f}" dy=".35em">{}</text>')
            parts.append(text.format(LEFT - 7, y, said))
        for value, said in self.x.ticks:
            x = self.across(value)
            parts.append(Markup('<path class="grid" d="M{:.1f} {:.1f}v5"/>').format(x, floor))
            text = Markup('<text class="tick mid" x="{:.1f}" y="{:.1f}" dy=".95em">{}</text>')
            parts.append(text.format(x, floor + 5, said))
        parts.append(Markup('<path class="axis" d="M{} {:.1f}H{}"/>').format(LEFT, floor, WIDTH - RIGHT))
        middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
        parts.append(
            Markup('<text class="mid" x="{}" y="{:.1f}">{}</text>').format(middle, self.height - 4, self.x.label)
        )
        return Markup("").join(parts)


def small(title: str, chart: Markup) -> Markup:
    """A chart under a few words of its own, one of several beside each other."""
    return Markup('<div class="one"><p class="title">{}</p>{}</div>').format(escape(title), chart)
