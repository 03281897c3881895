"""The rows of `cifar10.csv` in, tables and figures out: accuracy over the ratio, the prediction, recall of each class.

python -m tests.benchmarks.cifar10_figures --updates 1200 --plot docs/images/cifar10.png
python -m tests.benchmarks.cifar10_figures --updates 1200 --plot-classes docs/images/cifar10-classes.png
"""

from __future__ import annotations

import argparse

import numpy as np
from matplotlib.figure import Figure

from tests.benchmarks.cifar10 import GENERATORS, RATIOS, VARIANCES, listed, rows

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def accuracies(generator: str, variance: float, updates: int) -> np.ndarray:
    """Test accuracy in %, [seeds, ratios], of the seeds that are complete."""
    return _over_ratios(generator, variance, updates, "value")[..., 0]


def recalls(generator: str, variance: float, updates: int) -> np.ndarray:
    """Recall of each class in %, [seeds, ratios, classes], of the seeds that are complete."""
    return _over_ratios(generator, variance, updates, "classes")


def _over_ratios(generator: str, variance: float, updates: int, column: str) -> np.ndarray:
    found: dict[str, dict[float, list[float]]] = {}
    for row in rows():
        asked = (row["generator"], row["what"], row["updates"]) == (generator, "test accuracy", str(updates))
        ratio = float(row["ratio"] or "nan")
        if asked and row[column] and (ratio == 0 or float(row["noise_variance"]) == variance):
            found.setdefault(row["seed"], {})[ratio] = [100 * float(value) for value in row[column].split()]
    complete = [[of[ratio] for ratio in RATIOS] for of in found.values() if len(of) == len(RATIOS)]
    return np.asarray(complete) if complete else np.zeros((0, len(RATIOS), 1))


def estimates(generator: str, variance: float) -> list[dict[str, str]]:
    return [
        row
        for row in rows()
        if (row["generator"], row["what"], row["noise_variance"]) == (generator, "estimate", str(variance))
    ]


def middle(found: list[dict[str, str]]) -> tuple[float, float, float]:
    """Medians over seeds of the predicted ratio and of the ends of its interval."""
    ratio, low, high = (float(np.median([float(row[name]) for row in found])) for name in ("value", "low", "high"))
    return ratio, low, high


def error(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean over the first axis."""
    spread: np.ndarray = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return spread


def table(generator: str, updates: int) -> None:
    fidelity, judge = (
        next(float(row["value"]) for row in rows() if (row["generator"], row["what"]) == (generator, what))
        for what in ("label fidelity", "judge accuracy")
    )
    print(f"\n{generator}: label fidelity {fidelity:.3f} under a judge of test accuracy {judge:.3f}")
    print(f"test accuracy in % after {updates:,} updates, mean ± standard error; gains over ratio 0 are paired")
    best, tops, lasts = [], [], []
    for variance in VARIANCES:
        values = accuracies(generator, variance, updates)
        if len(values) < 2:
            print("  fewer than two seeds are complete")
            return
        mean, gain = values.mean(axis=0), values - values[:, :1]
        shown = "  ".join(f"{r:g}: {m:.1f} ± {e:.1f}" for r, m, e in zip(RATIOS, mean, error(values), strict=True))
        top = int(mean.argmax())
        best.append(RATIOS[top])
        tops.append(gain[:, top].mean())
        lasts.append(gain[:, -1].mean())
        print(f"  variance {variance:g}  {shown}  (n={len(values)})")
        print(
            f"    best at {RATIOS[top]:g}, {gain[:, top].mean():+.1f} ± {error(gain)[top]:.1f}; "
            f"at {RATIOS[-1]:g} {gain[:, -1].mean():+.1f} ± {error(gain)[-1]:.1f}"
        )
        found = estimates(generator, variance)
        if not found:
            continue
        ratio, low, high = middle(found)
        verdicts = ", ".join(row["verdict"] for row in found)
        each = ", ".join(row["value"] for row in found)
        print(f"    predicted {ratio:g} [{low:g}, {high:g}] (medians; seeds: {each}); {verdicts}")
    for name, series in (("best ratio", best), ("gain there", tops), (f"gain at {RATIOS[-1]:g}", lasts)):
        said = "never rises with noise" if series == sorted(series, reverse=True) else "rises with noise somewhere"
        print(f"  {name} {said}: {', '.join(f'{value:.1f}' for value in series)}")


def of_classes(generator: str, updates: int) -> None:
    """What section I.2 says of the class level, where recalls were kept."""
    values = [recalls(generator, variance, updates) for variance in VARIANCES]
    if min(map(len, values)) < 2:
        return
    gains = [each - each[:, :1] for each in values]  # paired, [seeds, ratios, classes]
    noisier = np.mean(
        [each.std(axis=0, ddof=1).mean() / each.mean(axis=2).std(axis=0, ddof=1).mean() for each in gains]
    )
    print(f"  class level: gains spread {noisier:.1f} times as much over seeds as those of all classes")
    last = np.stack([each.mean(axis=0)[-1] for each in gains])  # [variances, classes]
    for variance, each, gain in zip(VARIANCES, values, last, strict=True):
        best = [f"{RATIOS[place]:g}" for place in each.mean(axis=0).argmax(axis=0)]
        print(f"    variance {variance:g}: gain at {RATIOS[-1]:g} {listed(gain, '+.1f')}; best ratios {' '.join(best)}")
        told = [row for row in estimates(generator, variance) if row["classes"]]
        if not told:
            continue
        at = np.log2(1 + np.asarray([row["classes"].split() for row in told], float))
        common = np.log2(1 + np.asarray([[float(row["value"])] * at.shape[1] for row in told]))
        own, one = (_recall_lost(each.mean(axis=0), picked) for picked in (at, common))
        print(f"      points of recall lost by the ratio predicted for each class {own:.1f}, for all {one:.1f}")
    pairs = [(a <= b).mean() for a, b in zip(last[1:], last[:-1], strict=True)]
    print(f"    classes that gain no more at the next noisier variance: {', '.join(f'{share:.0%}' for share in pairs)}")


def _recall_lost(curves: np.ndarray, picked: np.ndarray) -> float:
    """Mean over classes and seeds. curves: [ratios, classes]; picked: log2(1 + ratio), [seeds, classes]."""
    u = np.log2(1 + np.asarray(RATIOS))
    there = [np.interp(picked[:, c], u, curve) for c, curve in enumerate(curves.T)]
    return float(np.mean(curves.max(axis=0)[:, None] - there))


def plot_classes(path: str, generator: str, updates: int) -> None:
    """Recall of each class over the ratio, a panel for each variance."""
    if not min(len(recalls(generator, variance, updates)) for variance in VARIANCES):
        raise SystemExit(
            f"no seed of {generator} has all its recalls after {updates} updates; run tests.benchmarks.cifar10"
        )
    ticks = np.log2(1 + np.asarray(RATIOS))
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    panels = figure.subplots(1, len(VARIANCES), sharey=True)
    for axes, variance in zip(panels, VARIANCES, strict=True):
        mean = recalls(generator, variance, updates).mean(axis=0)
        for c, name in enumerate(CLASSES):
            axes.plot(ticks, mean[:, c], lw=1.2, color=f"C{c}", label=name)
        axes.plot(ticks, mean.mean(axis=1), lw=2.4, color="#22252b", label="all classes")
        axes.set_title(f"noise variance {variance:g}")
        axes.set_xticks(ticks, [f"{ratio:g}" for ratio in RATIOS])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    panels[0].set_ylabel("recall, %")
    figure.supxlabel("synthetic images per real image", fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def plot(path: str, updates: int) -> None:
    shown = [name for name in GENERATORS if len(accuracies(name, 0.0, updates)) > 1]
    figure = Figure(figsize=(max(6.0, 4.6 * len(shown)), 4.2), layout="constrained")
    ticks = np.log2(1 + np.asarray(RATIOS))
    for axes, generator in zip(figure.subplots(1, len(shown), squeeze=False, sharey=True)[0], shown, strict=True):
        for variance, color in zip(VARIANCES, ("#d9822b", "#3d8b40", "#b3372f"), strict=True):
            values = accuracies(generator, variance, updates)
            mean = values.mean(axis=0)
            axes.errorbar(
                ticks,
                mean,
                yerr=error(values),
                fmt="o-",
                ms=4,
                capsize=2,
                color=color,
                label=f"noise variance {variance:g}",
            )
            found = estimates(generator, variance)
            if not found:
                continue
            ratio, low, high = np.log2(1 + np.asarray(middle(found)))
            height = np.interp(ratio, ticks, mean)
            axes.plot([low, high], [height, height], color=color, lw=6, alpha=0.25, solid_capstyle="butt")
            axes.plot(ratio, height, "D", color=color, ms=9, mec="white", zorder=4)
        axes.set_xticks(ticks, [f"{ratio:g}" for ratio in RATIOS])
        axes.set_xlabel("synthetic images per real image")
        axes.set_title({"diffusion": "small diffusion model", "gaussians": "Gaussians of each class"}[generator])
        axes.spines[["top", "right"]].set_visible(False)
        axes.label_outer()
        axes.grid(alpha=0.2)
    axes = figure.axes[0]
    axes.set_ylabel("test accuracy, %")
    axes.plot([], [], "D", color="grey", ms=9, mec="white", label="predicted ratio, and its interval")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=300, help="of the classifiers")
    parser.add_argument("--plot", metavar="FILE", help="accuracy over the ratio")
    parser.add_argument("--plot-classes", metavar="FILE", help="recall of each class, of the Gaussians")
    arguments = parser.parse_args()
    for generator in GENERATORS:
        if any(row["generator"] == generator for row in rows()):
            table(generator, arguments.updates)
            of_classes(generator, arguments.updates)
    if arguments.plot:
        plot(arguments.plot, arguments.updates)
    if arguments.plot_classes:
        plot_classes(arguments.plot_classes, "gaussians", arguments.updates)


if __name__ == "__main__":
    main()
