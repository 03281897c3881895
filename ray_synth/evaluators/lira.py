"""What shadow models say of the real training images in; how well one tells what a classifier was trained on, out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ray_synth.config import Lira
from ray_synth.evaluators.context import EvaluationContext
from ray_synth.evaluators.shadows import halves, shadow_logits
from ray_synth.metrics.membership import Roc, lira_scores, logit_confidence
from ray_synth.seeding import derive_seed

RATES = {"1_percent": 0.01, "0.1_percent": 0.001}
POINTS = 25  # of a ROC, evenly spaced on a logarithmic axis


def membership(context: EvaluationContext) -> Iterator[tuple[str, float]]:
    """LiRA (Carlini et al., 2022) on the real training images; nothing where `evaluate.lira` is not set.

    Of shadow models trained on `real` or on `synthetic` images: `lira/WHICH/auc` and `/auc/std` (over the models that
    are attacked), `/accuracy` on images that a model did not see, `/tpr_at_1_percent` and `/tpr_at_0.1_percent` false
    positives with `/low` and `/high` (left out where the non-members are too few to tell), and `/roc/FPR`, the true
    positive rate at each. `lira/shadows`, `lira/images_per_class`, `lira/non_members` say of how many.
    """
    recipe, pool = context.shadows, context.train
    if recipe is None:
        return
    seed = derive_seed("lira", context.seed)
    inside = halves(pool.labels, recipe.lira.shadows, seed)
    yield "lira/shadows", recipe.lira.shadows
    yield "lira/images_per_class", len(pool) / pool.num_classes
    yield "lira/non_members", int((~inside).sum())
    for on in recipe.trained_on:
        logits = shadow_logits(pool, recipe, inside, on, seed)
        for name, value in leaked(logits, pool.labels, inside, recipe.lira):
            yield f"lira/{on}/{name}", value


def leaked(logits: np.ndarray, labels: np.ndarray, inside: np.ndarray, lira: Lira) -> Iterator[tuple[str, float]]:
    """logits: [S,n,K] of shadow models, labels: [n], inside: [S,n] what each was trained on."""
    confidences = np.stack([logit_confidence(each, labels) for each in logits])
    scores = attacked(confidences, inside, lira)
    roc = Roc.of(scores.ravel(), inside.ravel())
    each = [Roc.of(*pair).auc for pair in zip(scores, inside, strict=True)]
    yield "auc", roc.auc
    yield "auc/std", float(np.std(each, ddof=1))
    yield "accuracy", float((logits.argmax(-1) == labels)[~inside].mean())
    for name, fpr in RATES.items():
        rate = roc.tpr_at(fpr)
        if rate is not None:
            yield f"tpr_at_{name}", rate.value
            yield f"tpr_at_{name}/low", rate.low
            yield f"tpr_at_{name}/high", rate.high
    for count in np.unique(np.geomspace(1, roc.non_members, POINTS).round().astype(int)):
        yield f"roc/{count / roc.non_members:.6g}", float(roc.true[roc.false <= count].max() / roc.members)


def attacked(confidences: np.ndarray, inside: np.ndarray, lira: Lira) -> np.ndarray:
    """Every model in turn is the target, and those of all other pairs attack it: [S,n], [S,n] -> scores [S,n].

    With its twin of the same pair left out, as many of the others saw an image, be it a member or not: else their
    number alone would tell the two apart.
    """
    models = np.arange(len(confidences))
    scores = []
    for target in models:
        others = models // 2 != target // 2
        known, seen = confidences[others].T, inside[others].T  # (n, S - 2)
        sides = [known[which].reshape(len(known), -1) for which in (seen, ~seen)]
        scores.append(lira_scores(confidences[target], *sides, mode=lira.mode, fixed_variance=lira.fixed_variance))
    return np.stack(scores)
