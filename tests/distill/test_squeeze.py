"""Class statistics in one pass are those of two passes in float64; what they are of must be there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ray_synth.classifier.models import build_model
from ray_synth.config import Classifier
from ray_synth.data.images import ImageSet
from ray_synth.data.transforms import to_model_range
from ray_synth.distill import squeeze
from ray_synth.distill.squeeze import Moments, Tapped, norm_layers, summary_of_class
from ray_synth.errors import InputError, WorkError

NAMES = ("one", "other")


def teacher(model: str = "resnet8", shape: tuple[int, int, int] = (8, 8, 1)) -> nn.Module:
    """With running statistics that are not those of a start."""
    built = build_model(Classifier(model=model), shape, NAMES, seed=0)
    rng = torch.Generator().manual_seed(0)
    built.train()
    for _ in range(3):
        built(torch.rand(16, shape[2], *shape[:2], generator=rng) * 2 - 1)
    return built.eval()


def some(digits: ImageSet, label: int) -> ImageSet:
    return digits.take(np.flatnonzero(digits.labels == label))


def layer_inputs(model: nn.Module, images: ImageSet) -> list[np.ndarray]:
    """What goes into each BatchNorm layer, all images at once, float64 [n,c,h,w]."""
    found: list[np.ndarray] = []
    hooks = [
        norm.register_forward_pre_hook(lambda module, given: found.append(given[0].double().numpy()))
        for norm in norm_layers(model)
    ]
    with torch.no_grad():
        model(to_model_range(torch.from_numpy(images.images())))
    for hook in hooks:
        hook.remove()
    return found


def test_statistics_are_those_of_two_passes(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squeeze, "BATCH", 50)  # the last batch is another size
    model, images = teacher(), some(digits, 3)
    inputs = layer_inputs(model, images)
    means = [x.mean(axis=(0, 2, 3)) for x in inputs]
    variances = [((x - m[:, None, None]) ** 2).mean(axis=(0, 2, 3)) for x, m in zip(inputs, means, strict=True)]
    found = summary_of_class(Tapped(model, exact=True), images)
    scale = np.sqrt(np.concatenate(variances))
    assert (np.abs(found.mean.numpy() - np.concatenate(means)) <= 1e-5 * (np.abs(np.concatenate(means)) + scale)).all()
    np.testing.assert_allclose(found.variance.numpy(), np.concatenate(variances), rtol=1e-5)


def test_released_variances_lack_those_of_batch_means(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squeeze, "BATCH", 40)
    model, images = teacher(), some(digits, 5).take(slice(160))
    batches = [x.reshape(4, 40, *x.shape[1:]) for x in layer_inputs(model, images)]
    within = np.concatenate([x.var(axis=(1, 3, 4)).mean(axis=0) for x in batches])
    between = np.concatenate([x.mean(axis=(1, 3, 4)).var(axis=0) for x in batches])
    released = summary_of_class(Tapped(model, exact=True), images, "released").variance.numpy()
    paper = summary_of_class(Tapped(model, exact=True), images).variance.numpy()
    np.testing.assert_allclose(released, within, rtol=1e-5)
    np.testing.assert_allclose(paper, within + between, rtol=1e-5)
    assert between.max() > 0.005 * within.max()


def test_moments_do_not_hang_on_batches() -> None:
    rng = np.random.default_rng(0)
    x = 1e4 + rng.normal(size=(57, 3, 9))  # a mean far above the spread
    whole = x.transpose(1, 0, 2).reshape(3, -1)
    moments = Moments()
    for part in np.split(x, [1, 20, 33]):
        moments.add(part.mean(axis=2), part.var(axis=2))
    np.testing.assert_allclose(moments.mean, whole.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(moments.variance(), whole.var(axis=1), rtol=1e-9)


def test_features_are_what_the_head_sees(digits: ImageSet) -> None:
    model, images = teacher("resnet18"), some(digits, 1).take(slice(5))
    found = summary_of_class(Tapped(model), images)
    head = model.network.fc
    assert found.features.shape == (5, 512)
    np.testing.assert_allclose(head(torch.from_numpy(found.features)).detach(), found.logits, atol=1e-5)


@pytest.mark.parametrize("model", ["small_cnn", "compact_cnn"])
def test_a_model_without_batchnorm_is_refused(model: str) -> None:
    built = build_model(Classifier(model=model), (8, 8, 1), NAMES, seed=0)
    with pytest.raises(InputError, match=r"must have BatchNorm layers.*--set distill.teacher.model=resnet18"):
        Tapped(built)


def test_features_that_are_not_finite_are_refused(digits: ImageSet) -> None:
    model = teacher()
    with torch.no_grad():
        model.network.conv1.weight.fill_(float("nan"))
    with pytest.raises(WorkError, match=r"5 of 5 images have features that are not finite"):
        summary_of_class(Tapped(model), some(digits, 1).take(slice(5)))


def test_global_statistics_are_the_running_ones() -> None:
    model = teacher()
    means, variances = Tapped(model).global_statistics
    assert len(means) == len(variances) == sum(norm.num_features for norm in norm_layers(model))
    assert torch.equal(means[:16], model.network.bn1.running_mean)


def test_nothing_is_kept_of_what_others_ask_the_teacher(digits: ImageSet) -> None:
    """Soft labels and patches ask the same model, thousands of times."""
    model = build_model(Classifier(model="resnet8"), digits.shape, digits.class_names, seed=0)
    tapped, images = Tapped(model), to_model_range(torch.from_numpy(digits.images(slice(4))))
    first = tapped(images)
    assert not any(module._forward_pre_hooks for module in model.modules())
    model(images[:2])
    again = tapped(images)
    for one, other in zip((*first.means, first.features), (*again.means, again.features), strict=True):
        assert torch.equal(one, other)
