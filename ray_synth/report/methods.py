"""An estimate in, what tables, pictures and pages say of it out: each method's own ratio and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from ray_synth.bound.result import RatioEstimate

NAMES = {
    "probe": "probe",
    "closed_form": "closed form",
    "exact_risk": "exact risk",
    "stability": "stability bound",
    "scaling_law": "scaling law",
}
TERMS = {
    "closed_form": "pixels in [0, 1]; distance of spectra D = {discrepancy:.3g}",
    "exact_risk": "excess risk {risk:.3g}, with real data only {risk_real_only:.3g}",
    "stability": "W₂ beyond sampling error = {distance:.3g}",
    "scaling_law": "error that synthetic data alone cannot go below: {mismatch:.3f}",
}


def in_order(methods: Mapping[str, object]) -> list[str]:
    """The methods that were asked, the known ones first."""
    return [*(name for name in NAMES if name in methods), *(name for name in methods if name not in NAMES)]


def method_rows(estimate: RatioEstimate) -> list[tuple[str, float, str]]:
    """A row per method that was asked, and what those say that have more than one answer: the closed form swings with
    what its terms are read from, and the scaling law is fitted in two ways."""
    methods = estimate.methods
    rows = []
    for name in in_order(methods):
        terms = methods[name]
        said = _probe_said(terms) if name == "probe" else TERMS.get(name, "").format_map(terms)
        rows.append((NAMES.get(name, name), float(terms["ratio"]), said))
        if name == "closed_form":
            raw, decay = terms["noise_variance_raw"], terms["decay_1d"]
            rows.append(("", float(terms["ratio_raw_variance"]), f"the same, pixels in [0, 255]: σ² = {raw:.3g}"))
            rows.append(("", float(terms["ratio_decay_1d"]), f"the same, decay read in one dimension: r = {decay:.3g}"))
            rows += [("", *swing(terms["proxies"]))] if terms.get("proxies") else []
        alone = terms.get("alone") if name == "scaling_law" else None
        if alone:
            said = f"the same, as its authors fit it, to either side alone: {alone['mismatch']:.3f}"
            rows.append(("", float(alone["ratio"]), said))
    return rows


def swing(proxies: Sequence[Mapping[str, Any]]) -> tuple[float, str]:
    """The median ratio of the closed form under all its proxies, and how far they are apart."""
    ratios = [float(row["ratio"]) for row in proxies]
    names = ", ".join(dict.fromkeys(row["discrepancy"] for row in proxies))
    return median(ratios), f"the median under D by {names}, each σ² and decay: {min(ratios):.3g} to {max(ratios):.3g}"


def classes_differ(estimate: RatioEstimate) -> bool:
    """False where no class stands out: with too few real images of each, all are given the curve of all images."""
    return len({(each.recall_real_only, each.recall, each.ratio) for each in estimate.classes}) > 1


def class_said(label: int | str, class_names: Sequence[str]) -> str:
    """label: a place among the class names, where they are known; or a name itself."""
    if isinstance(label, str):
        return label
    return class_names[label] if class_names else f"class {label}"


def _probe_said(terms: Mapping[str, Any]) -> str:
    accuracy = terms["accuracy"]
    return f"the prediction; held-out accuracy {accuracy[0]:.3f} with real data only, at most {max(accuracy):.3f}"


def allocation_said(estimate: RatioEstimate) -> str:
    """What the recommended allocation gives and the others would; nothing where it makes no difference."""
    found = estimate.allocations
    if len({(each.ratio, each.accuracy, each.balanced_accuracy) for each in found.values()}) < 2:
        return ""
    said = (
        f"{name} {each.accuracy:.3f} (balanced {each.balanced_accuracy:.3f}) at ratio {each.ratio:.3g}"
        for name, each in sorted(found.items(), key=lambda item: item[0] != estimate.allocation)
    )
    other = "" if estimate.recommended == estimate.allocation else f"; {estimate.recommended} is recommended"
    return "; ".join(said) + other
