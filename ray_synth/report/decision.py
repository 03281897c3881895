"""The results of a run in, what to do about them out: a ratio, what it brought, what it costs, what to type next."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType

from ray_synth.report.charts import number
from ray_synth.report.summary import Summary
from ray_synth.sweep.ledger import Trial

SURE = 0.95  # of the interval of a gain
PAIRED = {"at_predicted": "predicted", "best": "total"}  # names of gains in metrics.json
AT_THE_TOP = 0.98  # of the largest ratio: a best one beyond it may be larger still


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds on the machine of the run, all of its nodes and workers at once.

    image: of generating one; None where images were there already. training: of one at ratio 0, as trials took. sweep:
    of all trials, one after the other. grows: a training takes 1 + ratio times as long (`budget: epochs`).
    """

    image: float | None
    training: float
    sweep: float
    grows: bool = False

    @classmethod
    def of(cls, trials: Sequence[Trial], *, image: float | None, grows: bool, share: float = 1.0) -> Cost:
        """From the median of the complete trials. share: of the images of a training, that a trial took."""
        complete = [trial for trial in trials if trial.status == "complete"]
        each = [trial.seconds / (share * (1 + trial.setting.synthetic_ratio) if grows else 1) for trial in complete]
        total = sum(trial.seconds for trial in trials)
        return cls(image=image, training=median(each) if each else 0.0, sweep=total, grows=grows)

    def training_at(self, ratio: float) -> float:
        return self.training * (1 + ratio if self.grows else 1)

    def share_of_sweep(self, ratio: float) -> float:
        """Trainings of this length that the sweep's trials would have been."""
        there = self.training_at(ratio)
        return self.sweep / there if there > 0 else math.nan


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a run was asked for, as far as the next one may ask otherwise. place: its folder, as it is typed.
    images_per_class: None for as many as the ratios take. more: whether images are generated, not there already."""

    place: str
    seed: int
    shots: int | None
    max_ratio: float
    images_per_class: int | None
    more: bool


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Accuracy over that of real images alone; half: of its 95 % interval, None of single trainings.

    paired: the interval is of the same test images and seeds, both drawn anew; else of trainings alone (Welch's t).
    """

    value: float
    half: float | None
    paired: bool = False

    @property
    def told(self) -> bool:
        """Whether it is told from none."""
        return self.half is not None and abs(self.value) > self.half

    def __str__(self) -> str:
        """`+6.2 points (±1.1)`."""
        spread = "one training each: spread unknown" if self.half is None else f"±{100 * self.half:.1f}"
        return f"{100 * self.value:+.1f} points ({spread})"


def gain_of(summary: Summary, name: str, metrics: Mapping[str, float] = MappingProxyType({})) -> Gain | None:
    """Of `at_predicted` or `best` over `real_only` on the test set; None where either was not measured.

    metrics: of metrics.json. Where they have the gain with its paired interval, it is that one; else the interval is of
    means over trainings (Welch's t), without what other test images would change.
    """
    from scipy.stats import t

    found = [metrics.get(f"gain/{PAIRED[name]}{end}") for end in ("", "/low", "/high")]
    if found[0] is not None and found[1] is not None and found[2] is not None and summary.repeats > 1:
        return Gain(value=found[0], half=(found[2] - found[1]) / 2, paired=True)
    accuracy, std, n = summary.accuracy, summary.accuracy_std, summary.repeats
    if name not in accuracy or "real_only" not in accuracy:
        return None
    value = accuracy[name] - accuracy["real_only"]
    a, b = (std.get(each, 0.0) ** 2 / n for each in (name, "real_only"))
    if n < 2:
        return Gain(value=value, half=None)
    freedom = (a + b) ** 2 * (n - 1) / (a**2 + b**2) if a + b else n - 1
    return Gain(value=value, half=float(t.ppf((1 + SURE) / 2, freedom) * math.sqrt(a + b)))


def worth_saying(summary: Summary) -> bool:
    """Whether the gain at the predicted ratio is part of the answer: it is not where real images alone are advised."""
    return summary.predicted_ratio > 0 and summary.verdict in ("helps", "uncertain")


def headline(summary: Summary, gain: Gain | None) -> str:
    """What to do, in one sentence without its end: from the verdict, unless the test set says the contrary."""
    low, high = summary.interval
    ratio = f"{number(summary.predicted_ratio)} synthetic images per real image ({number(low)} to {number(high)})"
    if summary.verdict == "uncertain":
        return f"Undecided; if any, about {ratio}"
    if summary.predicted_ratio == 0 or summary.verdict != "helps":
        return "Use real images alone"
    if gain is not None and gain.told and gain.value < 0:
        return f"Use real images alone: about {ratio} were predicted to help, and did not"
    return f"Use about {ratio}"


def seconds_said(seconds: float) -> str:
    for unit, name in ((86_400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return f"{_rounded(seconds / unit)} {name}"
    return f"{_rounded(seconds)} s"


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


def next_steps(summary: Summary, asked: Asked) -> list[tuple[str, str]]:
    """Why, and the command to paste."""
    place, steps = shlex.quote(asked.place), []
    run = f"ray-synth run {place}"
    if summary.verdict == "uncertain":
        if asked.shots:
            why = "More real images narrow the prediction, where there are more"
            steps.append((why, f"{run} --set data.shots={2 * asked.shots}"))
        why = "More trainings a setting tell a smaller difference"
        steps.append((why, f"{run} --set evaluate.repeats={max(10, 2 * summary.repeats)}"))
    top = asked.max_ratio
    if asked.more and summary.verdict == "helps" and summary.predicted_ratio >= AT_THE_TOP * top:
        why = f"The best ratio may be above {number(top)}, the largest that was tried"
        each = f" --set generate.images_per_class={2 * asked.images_per_class}" if asked.images_per_class else ""
        steps.append((why, f"{run} --set sweep.max_ratio={2 * top:g}{each}"))
    if summary.verdict == "helps" and summary.predicted_ratio > 0:
        why = "Take the images along, for a training of your own"
        steps.append((why, f"ray-synth generate {place} --export folder"))
    why = "See whether it holds with other real images, trainings and seeds"
    begun = asked.place.rstrip("/").removesuffix(f"-seed{asked.seed}")
    other = shlex.quote(f"{begun}-seed{asked.seed + 1}")
    steps.append((why, f"{run} --seed {asked.seed + 1} --out {other}"))
    return steps
