"""Classifiers whose answers are known in, and every figure by hand: gains, classes, confusion, subsets, corruptions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ray_synth.data.images import ImageSet
from ray_synth.data.ood import FurtherSet
from ray_synth.evaluators.accuracy import final_accuracy
from ray_synth.evaluators.answers import AT_ONCE, Question, answers
from ray_synth.evaluators.context import EvaluationContext
from ray_synth.evaluators.ood import corruption, shifted

CLASSES = 7


class Told(nn.Module):
    """Says what a table says of an image, whose number its first two pixels are."""

    def __init__(self, logits: np.ndarray, read: list[int] | None = None):
        super().__init__()
        self.table = nn.Parameter(torch.from_numpy(logits.astype(np.float32)))
        self.read = read

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = ((images[:, 0, 0, :2] + 1) * 127.5).round().long()
        rows = values[:, 0] * 256 + values[:, 1]
        if self.read is not None:
            self.read.extend(rows.tolist())
        return self.table[rows]


def numbered(labels: np.ndarray, start: int = 0) -> ImageSet:
    pixels = np.zeros((len(labels), 4, 4, 1), dtype=np.uint8)
    rows = np.arange(start, start + len(labels))
    pixels[:, 0, 0, 0], pixels[:, 0, 1, 0] = rows // 256, rows % 256
    return ImageSet(pixels=pixels, labels=labels, class_names=tuple("abcdefg"))


def logits_for(predicted: np.ndarray, second: np.ndarray | None = None, sure: float = 2.0) -> np.ndarray:
    table = np.zeros((len(predicted), CLASSES))
    table[np.arange(len(predicted)), predicted] = sure
    if second is not None:
        table[np.arange(len(predicted)), second] = sure / 2
    return table


def loads(model: nn.Module) -> Callable[[], tuple[nn.Module, float]]:
    return lambda: (model, 0.5)


def context_of(test: ImageSet, classifiers: list[tuple[str, nn.Module]], **more: object) -> EvaluationContext:
    return EvaluationContext(
        classifiers=[(name, loads(model)) for name, model in classifiers],
        train=test,
        test=test,
        read_all_but_test=lambda: test,
        read_synthetic=lambda: test,
        seed=0,
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture
def test() -> ImageSet:
    return numbered(np.arange(700) % CLASSES)


def wrong_at(labels: np.ndarray, rows: np.ndarray, taken_for: int = 1) -> np.ndarray:
    """Every answer right but those of some rows, which are of the class `taken_for` later."""
    said = labels.copy()
    said[rows] = (said[rows] + taken_for) % CLASSES
    return said


def test_the_test_set_is_read_once_for_each_classifier(test: ImageSet) -> None:
    read: list[int] = []
    right = logits_for(test.labels)
    names = [f"setting-{k}" for k in range(AT_ONCE + 1)]
    some = FurtherSet(name="some", images=test.take(test.labels < 3), classes=np.arange(3))
    context = context_of(test, [(name, Told(right, read)) for name in names], further=[some])
    dict(final_accuracy(context))
    assert len(read) == len(names) * len(test)
    dict(shifted(context))
    assert len(read) == len(names) * (len(test) + len(some.images))


def test_accuracies_gains_and_what_is_the_same(test: ImageSet) -> None:
    labels = test.labels
    rows = {"real_only": 140, "real_only_augmented": 105, "at_predicted": 91, "best": 70}
    classifiers = [
        (name, Told(logits_for(wrong_at(labels, np.arange(some + 14 * repeat)))))
        for name, some in rows.items()
        for repeat in range(2)
    ]
    context = context_of(test, classifiers, same={"real_only_tuned": "real_only"})
    found = dict(final_accuracy(context))
    assert found["accuracy/real_only"] == pytest.approx(1 - 147 / 700)
    assert found["accuracy/real_only/std"] == pytest.approx(np.std([140, 154], ddof=1) / 700)
    assert found["accuracy/real_only_tuned"] == found["accuracy/real_only"]
    assert found["gain/tuning"] == found["gain/tuning/low"] == found["gain/tuning/high"] == 0
    assert found["gain/total"] == found["gain/synthetic"] == pytest.approx(70 / 700)
    assert found["gain/augmentation"] == pytest.approx(35 / 700)
    assert found["gain/predicted"] == pytest.approx(49 / 700)
    for gain in ("total", "predicted", "synthetic", "augmentation"):
        assert 0 < found[f"gain/{gain}/low"] < found[f"gain/{gain}"] < found[f"gain/{gain}/high"]
    # Paired: the same images are wrong in both, so the gain is surer than two accuracies apart.
    apart = found["accuracy/best/high"] - found["accuracy/best/low"]
    assert found["gain/total/high"] - found["gain/total/low"] < apart + 0.06
    assert found["balanced_accuracy/best"] == pytest.approx(found["accuracy/best"])
    assert found["accuracy_top5/best"] == pytest.approx(np.mean(_among_five(labels, [70, 84])))
    assert context.details["final_accuracy"]["same"] == {"real_only_tuned": "real_only"}


def _among_five(labels: np.ndarray, wrong: list[int]) -> list[float]:
    """Of equal logits torch takes some: the oracle takes them too."""
    shares = []
    for some in wrong:
        table = torch.from_numpy(logits_for(wrong_at(labels, np.arange(some))).astype(np.float32))
        five = table.topk(5, dim=1).indices
        shares.append(float((five == torch.from_numpy(labels)[:, None]).any(1).double().mean()))
    return shares


def test_classes_and_what_they_are_taken_for(test: ImageSet) -> None:
    """The best setting loses class a, which it takes for c: the only class that is worse."""
    labels = test.labels
    lost = np.flatnonzero(labels == 0)[:60]
    classifiers = [
        ("real_only", Told(logits_for(wrong_at(labels, np.flatnonzero(labels == 3)[:50])))),
        ("best", Told(logits_for(wrong_at(labels, lost, taken_for=2)))),
    ]
    context = context_of(test, classifiers)
    dict(final_accuracy(context))
    details = context.details["final_accuracy"]
    a, d = details["classes"][0], details["classes"][3]
    assert a == {"class": "a", "images": 100, "accuracy": {"real_only": 1.0, "best": 0.4}}
    assert d["accuracy"] == {"real_only": 0.5, "best": 1.0}
    assert details["confusion"]["best"]["mostly"] == {"a": [("c", 0.6)]}
    assert details["confusion"]["real_only"]["mostly"] == {"d": [("e", 0.5)]}
    matrix = np.array(details["confusion"]["best"]["matrix"])
    assert (matrix[0, 0], matrix[0, 2]) == (40, 60)
    assert matrix.sum() == 700


def test_one_that_is_surer_than_right_is_badly_calibrated(test: ImageSet) -> None:
    labels = test.labels
    half = np.arange(0, 700, 2)
    sure = Told(logits_for(wrong_at(labels, half), sure=12.0))
    found = dict(final_accuracy(context_of(test, [("best", sure)])))
    confidence = float(torch.tensor([12.0] + [0.0] * 6).softmax(0)[0])
    assert found["calibration_error/best"] == pytest.approx(confidence - 0.5, abs=1e-5)


def test_a_set_of_some_classes_is_answered_among_these(test: ImageSet) -> None:
    """First g, then the right one: among a, b and c every answer is right, on the set and on the test set."""
    labels = np.arange(300) % 3
    further = numbered(labels, start=700)
    everything = np.concatenate([test.labels, labels])
    told = logits_for(np.full(1000, 6), second=everything)
    said = [("real_only", Told(told)), ("best", Told(told))]
    some = FurtherSet(name="some", images=further, classes=np.arange(3))
    context = context_of(test, said, further=[some])
    assert dict(final_accuracy(context))["accuracy/best"] == pytest.approx(1 / 7)
    found = dict(shifted(context))
    assert found["ood/some/best"] == found["ood/some/best/clean"] == found["ood/some/best/remains"] == 1
    assert found["ood/some/gain"] == found["ood/some/gain/low"] == found["ood/some/gain/high"] == 0
    assert context.details["ood"]["some"]["classes"] == 3
    whole = replace(context, further=[replace(some, classes=np.arange(CLASSES))], details={})
    assert dict(shifted(whole))["ood/some/best"] == 0


def test_what_is_not_asked_for_says_nothing(test: ImageSet) -> None:
    context = context_of(test, [("best", Told(logits_for(test.labels)))])
    assert dict(shifted(context)) == dict(corruption(context)) == {}
    assert not {"ood", "corruption"} & set(context.details)
    assert dict(final_accuracy(context_of(test, []))) == {}
    assert answers([], {"test": Question(images=test, among={"": None})}) == {}


class Bright(nn.Module):
    """Class 1 where an image is brighter than the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([-mean, mean], dim=1) * self.weight


def test_corruptions_are_of_the_first_images_and_averaged_over_strengths() -> None:
    """Contrast leaves the mean, and so every answer; the clean accuracy is that of the same images."""
    levels = np.where(np.arange(40) % 2, 200, 60).astype(np.uint8)
    pixels = np.broadcast_to(levels[:, None, None, None], (40, 8, 8, 1)).copy()
    labels = np.arange(40) % 2
    labels[30:] = 1 - labels[30:]
    test = ImageSet(pixels=pixels, labels=labels, class_names=("dark", "bright"))
    names = ("contrast", "gaussian_noise")
    context = context_of(test, [("real_only", Bright()), ("best", Bright())], corruptions=names, corrupted_images=20)
    found = dict(corruption(context))
    assert found["corruption/contrast/best"] == found["corruption/contrast/best/remains"] == 1
    assert found["corruption/mean/best"] == pytest.approx(np.mean([found[f"corruption/{name}/best"] for name in names]))
    assert found["corruption/mean/gain"] == 0
    details = context.details["corruption"]
    assert details["images"] == 20
    assert details["clean"]["best"] == 1
    assert details["strengths"]["contrast"]["best"] == [1.0] * 5
    assert details["constants"] == "CIFAR-10-C"
