"""Images that are optimised: what the loss is, whose views and noise are whose, and what the images come to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ray_synth.config import Recover
from ray_synth.data.images import ImageSet
from ray_synth.data.transforms import to_model_range
from ray_synth.distill.recover import (
    Pixels,
    Recovery,
    Target,
    Weights,
    as_bytes,
    groups_of,
    matching_loss,
    view,
)
from ray_synth.distill.squeeze import Tapped, summary_of_class
from ray_synth.errors import WorkError

from .test_squeeze import layer_inputs, some, teacher

SHAPE = (8, 8, 1)
ALL = Weights(bn=10.0, cross_entropy=0.0, norms=False)


def test_the_loss_is_written_out_once_more(digits: ImageSet) -> None:
    """Two classes of three images: squared distances to the points, and λ times those of means and variances."""
    model = teacher()
    images = digits.take(np.concatenate([np.flatnonzero(digits.labels == label)[:3] for label in (0, 1)]))
    tapped, rng = Tapped(model), np.random.default_rng(0)
    seen = tapped(to_model_range(torch.from_numpy(images.images())))
    depth = sum(part.shape[1] for part in seen.means)
    means, variances = rng.normal(size=(2, depth)), rng.random((2, depth))
    points = rng.normal(size=(6, 64))
    target = Target(
        labels=torch.tensor([0, 0, 0, 1, 1, 1]),
        means=torch.from_numpy(means).float(),
        variances=torch.from_numpy(variances).float(),
        points=torch.from_numpy(points).float(),
    )
    expected = ((seen.features.detach().numpy() - points) ** 2).sum()
    for group in (0, 1):
        inputs = layer_inputs(model, images.take(slice(3 * group, 3 * group + 3)))
        own = np.concatenate([x.mean(axis=(0, 2, 3)) for x in inputs])
        spread = np.concatenate([x.var(axis=(0, 2, 3)) for x in inputs])
        expected += 10.0 * (((own - means[group]) ** 2).sum() + ((spread - variances[group]) ** 2).sum())
    assert float(matching_loss(seen, target, ALL)) == pytest.approx(expected, rel=1e-4)


def test_sre2l_compares_the_batch_with_all_and_asks_for_labels() -> None:
    tapped = Tapped(teacher())
    rng = torch.Generator().manual_seed(1)
    seen = tapped(torch.rand(4, 1, 8, 8, generator=rng))
    mean, variance = tapped.global_statistics
    labels = torch.tensor([0, 1, 0, 1])
    target = Target(labels=labels, means=mean[None], variances=variance[None])
    weights = Weights.of("sre2l", Recover())
    assert (weights.bn, weights.cross_entropy, weights.norms) == (0.01, 1.0, True)
    expected, start = F.cross_entropy(seen.logits, labels), 0
    for own, within in zip(seen.means, seen.variances, strict=True):
        part = slice(start, start + own.shape[1])
        expected = expected + 0.01 * (own.mean(0) - mean[part]).norm()
        expected = expected + 0.01 * (within.mean(0) + own.var(0, correction=0) - variance[part]).norm()
        start = part.stop
    assert float(matching_loss(seen, target, weights)) == pytest.approx(float(expected), rel=1e-5)


def test_what_settings_leave_open_is_the_methods() -> None:
    assert Weights.of("wmdd", Recover()) == Weights(bn=10.0, cross_entropy=0.0, norms=False)
    assert Weights.of("wmdd", Recover(bn_weight=500.0, cross_entropy=0.5)).bn == 500.0


def test_a_view_follows_from_an_images_own_seed() -> None:
    images, settings = torch.rand(5, 3, 9, 7), Recover(jitter=2, flip=0.5)
    seeds = np.arange(5, dtype=np.int64) * 1000
    whole = view(images, seeds, 3, settings, together=False)
    for row in range(5):
        alone = view(images[row : row + 1], seeds[row : row + 1], 3, settings, together=False)
        assert torch.equal(alone[0], whole[row])
        assert torch.equal(whole[row].flatten().sort()[0], images[row].flatten().sort()[0])  # rolled, not cut
    assert not torch.equal(whole, view(images, seeds, 4, settings, together=False))
    together = view(images[:1].expand(5, 3, 9, 7), seeds, 3, settings, together=True)
    assert all(torch.equal(together[0], each) for each in together)


def test_a_roll_is_that_of_numpy() -> None:
    images = torch.rand(1, 1, 6, 5)
    rolled = view(images, np.array([7]), 0, Recover(jitter=2, flip=0.0), together=False)[0, 0].numpy()
    own = images[0, 0].numpy()
    found = [(d, r) for d in range(-2, 3) for r in range(-2, 3) if np.array_equal(np.roll(own, (d, r), (0, 1)), rolled)]
    assert len(found) == 1
    assert torch.equal(view(images, np.array([7]), 0, Recover(jitter=0, flip=1.0), together=False), images.flip(3))


def test_noise_is_an_images_own() -> None:
    seeds = np.array([3, 4, 5])
    assert torch.equal(Pixels(seeds, SHAPE).values[1], Pixels(seeds[1:2], SHAPE).values[0])
    assert float(Pixels(seeds, SHAPE)().detach().abs().max()) <= 1.0


def recovery(digits: ImageSet, iterations: int, **changes: float) -> tuple[Recovery, Target]:
    tapped = Tapped(teacher())
    own = summary_of_class(tapped, some(digits, 2).take(slice(60)))
    target = Target(
        labels=torch.zeros(4, dtype=torch.int64),
        means=own.mean[None],
        variances=own.variance[None],
        points=torch.from_numpy(own.features[:4]),
    )
    settings = Recover(iterations=iterations, jitter=0, flip=0.0, **changes)
    return Recovery(tapped, target, ALL, settings, seeds=np.arange(4), shape=SHAPE), target


def test_images_come_to_have_the_features_and_statistics(digits: ImageSet) -> None:
    made, target = recovery(digits, 150, learning_rate=0.1)
    before = float(made.loss(0).detach())
    pixels = made.run()
    assert pixels.shape == (4, 8, 8, 1)
    assert pixels.dtype == np.uint8
    seen = made.tapped(to_model_range(torch.from_numpy(pixels)))
    assert float(matching_loss(seen, target, ALL)) < 0.1 * before


def test_the_same_again_is_the_same_to_the_bit(digits: ImageSet) -> None:
    assert np.array_equal(recovery(digits, 5)[0].run(), recovery(digits, 5)[0].run())


def test_a_loss_that_is_not_finite_is_an_error(digits: ImageSet) -> None:
    made, target = recovery(digits, 2)
    target.means.fill_(float("nan"))
    with pytest.raises(WorkError, match=r"loss of recovered images is nan at iteration 2; lower distill.recover"):
        made.run()


def test_bytes_are_the_nearest() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert np.array_equal(as_bytes(to_model_range(torch.from_numpy(every))), every)


@pytest.mark.parametrize(
    ("method", "classes", "each", "batch", "expected"),
    [
        ("wmdd", 10, 10, 100, (10, 10)),  # all classes at once
        ("wmdd", 1000, 1, 100, (1, 100)),
        ("wmdd", 7, 250, 100, (100, 1)),  # of a class three batches: 100, 100, 50
        ("wmdd", 3, 7, 10, (7, 1)),
        ("sre2l", 1000, 50, 100, (1, 100)),
        ("sre2l", 10, 50, 100, (10, 10)),
        ("sre2l", 10, 3, 100, (3, 10)),
    ],
)
def test_batches_hold_what_is_compared_together(
    method: str, classes: int, each: int, batch: int, expected: tuple[int, int]
) -> None:
    assert groups_of(method, classes, each, batch) == expected
