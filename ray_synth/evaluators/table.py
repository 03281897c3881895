"""The evaluators by name, and their numbers: those of all that do not fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from ray_synth.errors import Spoiled
from ray_synth.evaluators.accuracy import final_accuracy
from ray_synth.evaluators.context import EvaluationContext
from ray_synth.evaluators.copies import copies
from ray_synth.evaluators.fidelity import label_fidelity, spectral_distance
from ray_synth.evaluators.lira import membership
from ray_synth.evaluators.ood import corruption, shifted
from ray_synth.evaluators.seen import feature_distance

Evaluator = Callable[[EvaluationContext], Iterator[tuple[str, float]]]
EVALUATORS: dict[str, Evaluator] = {
    "final_accuracy": final_accuracy,
    "ood": shifted,
    "corruption": corruption,
    "label_fidelity": label_fidelity,
    "spectral_distance": spectral_distance,
    "feature_distance": feature_distance,
    "copies": copies,
    "membership": membership,
}
# What they take, for a plan: test images times classifiers and synthetic images -> units. Nothing for quick ones.
TAKES: dict[str, Callable[[int, int], Mapping[str, float]]] = {
    "final_accuracy": lambda tests, synthetic: {"test_image": tests},
    "label_fidelity": lambda tests, synthetic: {"evaluate": 1, "judged_image": synthetic},
}
FAILED = "failed/"  # and an evaluator's name, among the metrics


def evaluated(
    context: EvaluationContext, advance: Callable[[int], None], *, failed: Callable[[], None]
) -> tuple[dict[str, float], dict[str, str]]:
    """Numbers by name, as metrics.json has them, and the errors of evaluators that failed, by theirs.

    A number that is not finite is left out. For an evaluator that failed there is `failed/NAME`, 1.

    Args:
        advance: called with the number of evaluators that are through.
        failed: called while an evaluator's error is being handled.
    """
    metrics: dict[str, float] = {}
    errors: dict[str, str] = {}
    for done, (name, evaluator) in enumerate(EVALUATORS.items(), 1):
        try:
            found = dict(evaluator(context))
            if twice := sorted(found.keys() & metrics.keys()):
                raise ValueError(f"another evaluator says {', '.join(twice)} already")
            metrics |= {key: float(value) for key, value in found.items() if math.isfinite(value)}
        except Spoiled:
            raise  # what is made anew, and then evaluated
        except Exception as error:
            failed()
            cause = getattr(error, "cause", None) or error  # of an error in another process
            errors[name] = f"{type(cause).__name__}: {cause}".splitlines()[0]
        advance(done)
    return metrics | {FAILED + name: 1.0 for name in errors}, errors


def failed_in(metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Names of the evaluators that failed."""
    return tuple(name.removeprefix(FAILED) for name in metrics if name.startswith(FAILED))
