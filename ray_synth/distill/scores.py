"""Accuracies in, the scores of DD-Ranking out, which take from a distilled set what labels and luck bring."""

from __future__ import annotations

from ray_synth.errors import InputError


def hard_label_recovery(real: float, distilled: float) -> float:
    """HLR = accuracy with all real images − with distilled ones, both with hard labels (Li et al., 2025).

    Lower is better. Accuracies are between 0 and 1, of students that are trained alike.
    """
    return _accuracy(real) - _accuracy(distilled)


def improvement_over_random(distilled: float, random: float) -> float:
    """IOR = accuracy with distilled images − with as many random real ones, both with the distilled set's own labels
    (soft ones by the same teacher) and training; higher is better (Li et al., 2025)."""
    return _accuracy(distilled) - _accuracy(random)


def _accuracy(value: float) -> float:
    if not 0 <= value <= 1:
        raise InputError(f"an accuracy is between 0 and 1, got {value}; divide per cents by 100")
    return value
