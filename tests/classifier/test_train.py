"""`fit`: it learns, repeats itself, counts images and updates as promised, and weighs every image the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ray_synth.allocation import synthetic_counts
from ray_synth.classifier import train
from ray_synth.classifier.mixture import TrainingData, mix
from ray_synth.classifier.predict import accuracy_of
from ray_synth.classifier.sides import Side
from ray_synth.classifier.train import _Training, fit, num_updates, recipe_of
from ray_synth.config import Classifier, PartitionSettings, Schedule
from ray_synth.data.images import ImageSet, first_per_class
from ray_synth.data.splits import Splits
from ray_synth.errors import InputError, WorkError
from ray_synth.training.augment import Augmentation
from ray_synth.training.team import Team

QUICK = Classifier(updates=60, evaluations=3, batch_size=32)


def mixed(splits: Splits, ratio: float, num_clusters: int = 20, *, use_real: bool = True, **how: Any) -> TrainingData:
    """The generator's own images play the synthetic side: more real digits."""
    return mix(
        splits.train if use_real else splits.train.take(np.zeros(0, dtype=np.int64)),
        splits.generator,
        synthetic_counts(splits.train.counts, ratio, "fill"),
        partition=PartitionSettings(num_clusters=num_clusters, iterations=20),
        seed=0,
        **how,
    )


def test_the_mix_holds_exactly_the_ratio_and_is_a_prefix(splits: Splits) -> None:
    half, double = mixed(splits, 0.5), mixed(splits, 2)
    assert np.bincount(half.synthetic.labels).tolist() == [5] * 10
    assert np.bincount(double.synthetic.labels).tolist() == [20] * 10
    rows = first_per_class(double.synthetic.labels, np.full(10, 5))
    assert (double.synthetic.images()[rows] == half.synthetic.images()).all()
    assert len(double.real_regions) == 100
    assert len(double.synthetic_regions) == 200
    assert mixed(splits, 0).synthetic.images().shape[0] == 0


def test_a_ratio_beyond_the_images_says_how_many_are_missing(splits: Splits) -> None:
    with pytest.raises(
        InputError,
        match=r"more synthetic image\(s\) than exist are asked for; type .* --set generate.images_per_class=160",
    ):
        mixed(splits, 16)


def test_it_learns_and_repeats_itself_bit_for_bit(splits: Splits) -> None:
    reported: list[float] = []
    settings = QUICK.model_copy(update={"updates": 150})
    model, accuracy, *_ = fit(mixed(splits, 4), splits.validation, settings, seed=3, report=reported.append)
    assert accuracy > 0.85
    assert len(reported) == 3
    assert reported[-1] == accuracy
    again, *_ = fit(mixed(splits, 4), splits.validation, settings, seed=3)
    other, *_ = fit(mixed(splits, 4), splits.validation, settings, seed=4)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert accuracy_of(model, splits.validation) == accuracy


def test_one_side_may_be_empty(splits: Splits) -> None:
    only_synthetic = mixed(splits, 1, use_real=False)
    assert len(only_synthetic.real) == 0
    assert len(only_synthetic.synthetic) == 100
    for sides in (mixed(splits, 0), only_synthetic):
        assert fit(sides, splits.validation, QUICK, seed=0).accuracy > 0.3
    with pytest.raises(InputError, match=r"data\.use_real is false and no synthetic image is asked for"):
        mixed(splits, 0, use_real=False)


def test_updates_are_the_same_at_every_ratio_unless_epochs_are_asked() -> None:
    assert num_updates(Classifier(updates=77), 100, 1600) == num_updates(Classifier(updates=77), 100, 0) == 77
    epochs = Classifier(budget="epochs", epochs=3, batch_size=64)
    assert num_updates(epochs, 100, 1600) == 3 * 50
    assert num_updates(epochs, 100, 0) == 3 * 2


def test_times_of_a_schedule_are_shares_of_the_training() -> None:
    def rates(updates: int, **schedule: Any) -> list[float]:
        recipe = recipe_of(Classifier(learning_rate=2.0, schedule=Schedule(**schedule)), updates)
        return [recipe.rate(step) for step in range(updates)]

    falling = rates(8, name="multistep", milestones=(0.5, 0.75), gamma=0.1)
    assert falling == pytest.approx([2, 2, 2, 2, 0.2, 0.2, 0.02, 0.02])
    assert rates(10, name="constant", warmup=0.4)[:5] == pytest.approx([0.5, 1.0, 1.5, 2, 2])
    assert rates(10, warmup=0.01)[0] == 2.0  # no step of it


def test_every_image_comes_equally_often_and_workers_share_the_batch(digits: ImageSet) -> None:
    images = digits.take(np.arange(30))
    side = Side(images, np.arange(30), 8, updates=15, seed=0, device=torch.device("cpu"))
    seen = torch.cat([side.batch(step, Team(), Augmentation()).rows for step in range(15)])
    assert torch.bincount(seen).tolist() == [4] * 30
    changes = Augmentation(flip=0.5, resized_crop=(0.5, 1.0))
    whole = side.batch(3, Team(), changes)
    halves = [side.batch(3, Team(rank=rank, size=2), changes) for rank in range(2)]
    assert torch.cat([half.rows for half in halves]).tolist() == [*whole.rows[::2], *whole.rows[1::2]]
    torch.testing.assert_close(halves[1].images, whole.images[1::2])


def test_uniform_weights_are_the_mean_over_all_images_at_every_ratio(splits: Splits) -> None:
    """Sides that lose the same lose that, whatever the ratio, so a learning rate and λ mean the same at each."""

    def weighted(ratio: float, *terms: float, **changes: Any) -> float:
        settings = QUICK.model_copy(update={"lambda_1": 0.3, "lambda_2": 0.7, **changes})
        training = _Training(mixed(splits, ratio), splits.validation, settings, seed=0, team=Team())
        return float(training._weighted(*map(torch.tensor, terms)))

    for ratio in (0.5, 1.0, 4.0):
        assert weighted(ratio, 1, 1, 0, 0) == pytest.approx(1)
        assert weighted(ratio, 1, 0, 0, 0) == pytest.approx(1 / (1 + ratio))
        assert weighted(ratio, 0, 0, 1, 0) == pytest.approx(0.3)
        assert weighted(ratio, 0, 0, 0, 1) == pytest.approx(0.7)
        assert weighted(ratio, 1, 1, 1, 1, weighting="fixed") == pytest.approx(4 + 1 + 0.3 + 0.7)
    assert weighted(0, 1, 0, 0, 0) == 1


def test_the_first_step_of_sgd_is_that_of_pooled_images(splits: Splits) -> None:
    """An oracle: plain cross-entropy over both sets at once, its gradient drawn from torch alone."""
    data = mixed(splits, 0.5)
    settings = QUICK.model_copy(
        update={"updates": 1, "evaluations": 1, "batch_size": 2 * len(data.synthetic), "lambda_1": 0.0, "lambda_2": 0.0}
    )
    training = _Training(data, splits.validation, settings, seed=0, team=Team())
    model = training.model
    batches = [side.batch(0, Team(), Augmentation()) for side in training.sides]
    outputs = [model(batch.images) for batch in batches]
    pooled = sum(
        F.cross_entropy(z, batch.labels) * len(side)
        for z, batch, side in zip(outputs, batches, (data.real, data.synthetic), strict=True)
    ) / (len(data.real) + len(data.synthetic))
    ours = training._total(
        *batches, torch.cat(outputs), torch.cat(outputs), [batch.labels for batch in batches], apart=False
    )
    torch.testing.assert_close(ours, pooled)


def test_a_loss_that_is_not_finite_is_a_failure(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    original = train.regularized_loss
    monkeypatch.setattr(
        train, "regularized_loss", lambda *a, **k: original(*a, **k)._replace(real=a[0].sum() * float("nan"))
    )
    with pytest.raises(WorkError, match=r"lower classifier\.learning_rate"):
        fit(mixed(splits, 1), splits.validation, QUICK, seed=0)
