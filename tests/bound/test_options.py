"""What can be asked of an estimate beside its defaults, on real digits."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ray_synth.bound import estimator
from ray_synth.bound.estimator import METHODS, METRICS, SMALL_CLASS, _recommended
from ray_synth.bound.evidence import class_balanced
from ray_synth.bound.image_risk import excess_distance
from ray_synth.bound.result import RatioEstimate
from ray_synth.config.sweep import METRICS as OF_A_FILE
from ray_synth.data.splits import Splits
from ray_synth.errors import InputError
from ray_synth.estimate import estimate_ratio
from ray_synth.features.encoders import encoder_of


@pytest.fixture(scope="module")
def good(splits: Splits) -> RatioEstimate:
    """Other real digits as synthetic ones."""
    pool = splits.generator
    return estimate_ratio(splits.train.images(), splits.train.labels, pool.images(), pool.labels, max_ratio=5.0)


def test_a_file_and_an_estimate_know_the_same_metrics() -> None:
    """The rooms do not import each other."""
    assert METRICS == OF_A_FILE


def test_every_method_has_its_own_answer_and_terms(good: RatioEstimate) -> None:
    assert set(good.methods) == set(METHODS)
    assert all(0 <= terms["ratio"] <= 5.0 and len(terms) > 2 for terms in good.methods.values())
    assert good.methods["stability"]["distance"] < 2.0
    assert good.methods["scaling_law"]["mismatch"] < 0.1  # digits that are as good as real lower the error to its floor
    proxies = good.methods["closed_form"]["proxies"]
    assert len({(row["discrepancy"], row["noise"], row["decay"]) for row in proxies}) == len(proxies) == 4 * 3 * 2
    assert all(0 < row["ratio"] <= 5.0 for row in proxies)
    alone = good.methods["scaling_law"]["alone"]  # as its authors fit it
    assert 0 < alone["ratio"] <= 5.0
    assert alone["mismatch"] < 0.1


def test_what_good_images_are_worth(good: RatioEstimate) -> None:
    assert good.real_equivalent is not None
    assert 0.3 < good.real_equivalent < 10  # other real digits are worth about one each
    assert [weight.ratio for weight in good.weights] == [0.25, 0.5, 1, 2, 4, 5]
    assert all(weight.gain < 0.02 for weight in good.weights)  # uniform weights are right for them
    assert {c.label for c in good.classes} == set(range(10))
    assert all((c.interval is None) == (c.num_real < SMALL_CLASS) for c in good.classes)
    assert all(c.interval[0] <= c.ratio <= c.interval[1] for c in good.classes if c.interval)
    recalls = [c.recall for c in good.classes]
    assert recalls == sorted(recalls)
    assert np.mean(recalls) == pytest.approx(1 - min(good.curve.error), abs=0.05)


def test_wrong_labels_want_more_weight_on_the_real_images(splits: Splits) -> None:
    pool, rng = splits.generator, np.random.default_rng(0)
    wrong = np.where(rng.uniform(size=len(pool)) < 0.8, rng.integers(0, 10, len(pool)), pool.labels)
    found = estimate_ratio(
        splits.train.images(), splits.train.labels, pool.images(), wrong, max_ratio=5.0, methods=("probe",)
    )
    assert set(found.methods) == {"probe"}
    last = found.weights[-1]
    assert last.real_weight > 1 / last.ratio  # more than uniform
    assert last.gain > 0.02
    weighted = estimate_ratio(
        splits.train.images(),
        splits.train.labels,
        pool.images(),
        wrong,
        max_ratio=5.0,
        methods=("probe",),
        real_weight=4.0,
    )
    assert weighted.weights == ()
    assert weighted.curve.error[-1] < found.curve.error[-1]


def test_one_bad_class_is_found(splits: Splits) -> None:
    pool = splits.generator
    images = pool.images().copy()
    images[pool.labels == 3] = 255 - images[pool.labels == 3]
    found = estimate_ratio(
        splits.train.images(), splits.train.labels, images, pool.labels, max_ratio=5.0, methods=("probe",)
    )
    distance = {c.label: c.distance or 0.0 for c in found.classes}
    assert max(distance, key=lambda label: distance[label]) == 3
    ratios = {c.label: c.ratio for c in found.classes}
    assert ratios[3] < np.median(list(ratios.values()))


def test_a_larger_real_set_lowers_error_and_gain(splits: Splits, good: RatioEstimate) -> None:
    pool = splits.generator
    arguments = (splits.train.images(), splits.train.labels, pool.images(), pool.labels)
    larger = estimate_ratio(*arguments, max_ratio=5.0, num_real=1000, methods=("closed_form",))
    assert larger.num_real == 1000
    assert larger.num_real_given == 100
    assert larger.curve.error[0] < good.curve.error[0]
    assert larger.curve.error[0] - min(larger.curve.error) < good.curve.error[0] - min(good.curve.error)
    width = larger.curve.high[0] - larger.curve.low[0]
    assert width / larger.curve.error[0] > (good.curve.high[0] - good.curve.low[0]) / good.curve.error[0]
    assert larger.methods["closed_form"]["num_real"] == 1000
    with pytest.raises(InputError, match="num_real must be an integer >= 100"):
        estimate_ratio(*arguments, num_real=50)


def test_synthetic_images_of_the_target_domain_are_wanted_there(splits: Splits) -> None:
    """Real digits upright, target and synthetic digits mirrored: useless at home, wanted there."""
    real, pool = splits.train, splits.generator
    mirrored = pool.images()[:, :, ::-1]
    home = estimate_ratio(real.images(), real.labels, mirrored[::2], pool.labels[::2], max_ratio=4.0, methods=())
    away = estimate_ratio(
        real.images(),
        real.labels,
        mirrored[::2],
        pool.labels[::2],
        target_images=mirrored[1::2],
        target_labels=pool.labels[1::2],
        max_ratio=4.0,
        methods=("stability",),
    )
    assert away.verdict == "helps"
    assert away.ratio > home.ratio
    assert away.methods["stability"]["shift"] > 0
    assert away.curve.error[0] > home.curve.error[0] + 0.1
    blind = estimate_ratio(
        real.images(),
        real.labels,
        mirrored[::2],
        pool.labels[::2],
        target_images=mirrored[1::2],
        max_ratio=4.0,
        methods=(),
    )
    assert 0 <= blind.ratio <= 4.0  # labels unknown: real images that look like the target count for more
    with pytest.raises(InputError, match="without target_images"):
        estimate_ratio(real.images(), real.labels, mirrored, pool.labels, target_labels=pool.labels)


def test_features_of_a_torch_module_and_of_a_function(splits: Splits) -> None:
    real, pool = splits.train, splits.generator.take(np.arange(200))
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Dropout(0.9))
    arguments = {"max_ratio": 2.0, "methods": ()}
    once = estimate_ratio(real.images(), real.labels, pool.images(), pool.labels, features=module, **arguments)
    assert once.curve.error[0] < 0.5
    assert module.training  # left as it was
    encoder = encoder_of(module)
    assert encoder is not None
    assert (encoder(real.images()) == encoder(real.images())).all()  # dropout is off

    def broken(images: np.ndarray) -> np.ndarray:
        features = images.reshape(len(images), -1).astype(float)
        features[0, 0] = np.nan
        return features

    for features, expected in (
        (broken, "NaN or infinity for 1 of 100"),
        (lambda images: images, r"\[100, d\]"),
        ("resnet", "features must be"),
        ("open_clip:ViT-B-32:/nowhere.pt", "no file"),
        (7, "features must be"),
    ):
        with pytest.raises(InputError, match=expected):
            estimate_ratio(real.images(), real.labels, pool.images(), pool.labels, features=features)


def test_unknown_methods_and_weights_are_refused(splits: Splits) -> None:
    real = splits.train
    arguments = (real.images(), real.labels, real.images(), real.labels)
    for wrong, expected in (
        ({"methods": ("probes",)}, "methods must be among"),
        ({"methods": "probe"}, "methods must be among"),
        ({"real_weight": 0.0}, "real_weight"),
        ({"confidence": 1.0}, "confidence"),
    ):
        with pytest.raises(InputError, match=expected):
            estimate_ratio(*arguments, **wrong)


def test_samples_of_one_distribution_are_no_distance_apart() -> None:
    rng = np.random.default_rng(0)
    same = [excess_distance(rng.normal(size=(60, 8)), rng.normal(size=(240, 8))) for _ in range(20)]
    shifted = excess_distance(rng.normal(size=(60, 8)) + 1.0, rng.normal(size=(240, 8)))
    assert np.median(same) < 0.6
    assert shifted == pytest.approx(np.sqrt(8), rel=0.2)  # a shift of the mean by 1 in 8 dimensions


def uneven(splits: Splits) -> tuple[np.ndarray, ...]:
    """One to twenty real digits a class, and others as synthetic ones."""
    pool, many = splits.generator, [20, 1, 20, 2, 20, 3, 10, 20, 5, 2]
    rows = np.concatenate([np.flatnonzero(pool.labels == c)[:count] for c, count in enumerate(many)])
    real, synthetic = pool.take(rows), splits.test
    return real.images(), real.labels, synthetic.images(), synthetic.labels


def test_rare_classes_are_worth_filling_first(splits: Splits) -> None:
    """What fill gives is more, above all for the mean over classes."""
    images = uneven(splits)
    best = estimate_ratio(*images, max_ratio=1, methods=("probe",))
    assert (best.allocation, set(best.allocations)) == ("fill", {"fill", "equal", "proportional"})
    assert best.metric == "balanced_accuracy"  # classes are uneven, and nobody said which shares count
    fill, rare = best.allocations["fill"], best.allocations["proportional"]
    assert fill.accuracy > rare.accuracy
    assert fill.balanced_accuracy > rare.balanced_accuracy + 0.03
    assert fill.balanced_accuracy == pytest.approx(1 - min(best.curve.error), abs=1e-5)
    asked = {"allocation": "proportional", "metric": "accuracy"}
    common = estimate_ratio(*images, max_ratio=1, methods=("probe",), **asked)
    rare = common.allocations["proportional"]
    assert common.recommended in ("fill", "equal", "proportional")
    assert (common.allocation, common.ratio, common.metric) == ("proportional", rare.ratio, "accuracy")
    assert rare.accuracy == pytest.approx(1 - min(common.curve.error), abs=1e-5)
    assert RatioEstimate.from_dict(common.to_dict()) == common
    goal = {"target_images": images[2][:40], "target_labels": images[3][:40]}
    assert estimate_ratio(*images, max_ratio=1, methods=("probe",), **goal).metric == "accuracy"  # it says the shares
    for wrong, words in (({"allocation": "rarest"}, "fill, equal, proportional"), ({"metric": "f1"}, "balanced_")):
        with pytest.raises(InputError, match=words):
            estimate_ratio(*images, **wrong)


def test_allocations_are_compared_by_all_kinds_of_classifiers(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    """In brief by ridge regression alone: what the others say of a ratio is added. Here they say that none helps."""
    images = uneven(splits)
    before = estimate_ratio(*images, max_ratio=1, methods=("probe",))
    assert min(before.allocations[name].ratio for name in ("fill", "equal")) > 0
    gather = estimator.gather

    def falling(*asked: Any, **how: Any) -> Any:
        found = gather(*asked, **how)
        return replace(found, scores=found.scores * (1 - found.grid / 2))

    monkeypatch.setattr(estimator, "gather", falling)
    told = estimate_ratio(*images, max_ratio=1, methods=("probe",))
    assert (told.ratio, told.verdict) == (0, "hurts")
    assert len(set(told.allocations.values())) == 1  # ratio 0, where there is nothing to allocate
    assert told.allocations["equal"].ratio == 0


def test_classes_count_alike_but_for_those_that_nothing_is_told_of() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    plain = np.full(6, 1 / 6)
    told = np.array([True, True, False])
    assert class_balanced(plain, labels, told) == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 4, 1 / 4, 0])
    assert class_balanced(plain, labels, ~told) == pytest.approx([0, 0, 0, 0, 0, 1])
    none = np.zeros(3, dtype=bool)
    assert class_balanced(plain, labels, none) == pytest.approx([1 / 9, 1 / 9, 1 / 9, 1 / 6, 1 / 6, 1 / 3])


def test_filling_stands_until_another_allocation_is_better_by_more_than_its_noise() -> None:
    def of(scores: list[float]) -> Any:
        values = np.array(scores)
        evidence = SimpleNamespace(importance=np.full(len(values), 1 / len(values)))
        return SimpleNamespace(evidence=evidence, at_best=values, mean=np.array([0.0, values.mean()]))

    fill = of([0.5] * 100)
    noisy = of([1.0] * 53 + [0.0] * 47)  # better by .03, with an error of .05
    clear = of([0.53] * 100)
    near = of([0.502] * 100)
    for other, alike, common in ((noisy, "fill", "equal"), (clear, "equal", "equal"), (near, "fill", "fill")):
        brief = {"fill": fill, "equal": other, "proportional": of([0.4] * 100)}
        assert _recommended(brief, "balanced_accuracy") == alike
        assert _recommended(brief, "accuracy") == common
    assert _recommended({}, "accuracy") == "fill"


def test_on_equal_classes_the_allocations_are_one(good: RatioEstimate) -> None:
    assert good.metric == "accuracy"
    assert good.allocation == "fill"
    assert len({(each.ratio, each.accuracy, each.balanced_accuracy) for each in good.allocations.values()}) == 1
    assert good.allocations["equal"].ratio == good.ratio


def test_without_real_images_in_training_synthetic_ones_answer_alone(splits: Splits) -> None:
    """Another question: at ratio 0 the same, above it the real images that help are missing, and labels that are all
    wrong leave nothing."""
    real, pool = splits.train, splits.generator
    images = (real.images(), real.labels, pool.images())
    question: dict[str, Any] = {"max_ratio": 1.0, "methods": ("probe",)}
    both = estimate_ratio(*images, pool.labels, **question)
    alone = estimate_ratio(*images, pool.labels, **question, use_real=False)
    assert alone.curve.error[0] == pytest.approx(both.curve.error[0], abs=0.03)
    assert alone.curve.error[-1] > both.curve.error[-1] + 0.01
    assert (alone.real_equivalent, alone.weights) == (None, ())
    wrong = estimate_ratio(*images, (pool.labels + 1) % 10, **question, use_real=False)
    assert wrong.ratio == 0
    assert wrong.curve.error[-1] > 0.8
