"""Membership inference: fair halves, an attack that finds what was learnt by heart and nothing where nothing is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ray_synth as rs
from ray_synth.config import Classifier, Diffusion, Generate, ImageFolder, Lira, load_experiment
from ray_synth.data.images import ImageSet
from ray_synth.data.splits import Splits
from ray_synth.errors import InputError
from ray_synth.evaluators import shadows
from ray_synth.evaluators.lira import attacked, leaked, membership
from ray_synth.evaluators.shadows import Recipe, check_pool, halves, made_from, shadow_logits
from ray_synth.generator import Generator, generator_of
from ray_synth.metrics.membership import Roc, lira_scores
from ray_synth.pipeline import Run
from ray_synth.planning.work import work_of
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder

from ..benchmarks.lira import by_other_draws
from ..conftest import DIGITS, TINY
from .test_fidelity import context_of

LABELS = np.repeat(np.arange(5), [8, 9, 10, 11, 2])


def test_halves_are_even_and_every_pair_shares_the_images() -> None:
    inside = halves(LABELS, 16, seed=0)
    assert (inside[::2] == ~inside[1::2]).all()
    assert set(inside.sum(axis=1).tolist()) == {20}
    for label, count in enumerate(np.bincount(LABELS)):
        assert set(inside[:, label == LABELS].sum(axis=1).tolist()) <= {count // 2, -(-count // 2)}
    assert len(np.unique(inside, axis=0)) == 16
    assert not (inside == halves(LABELS, 16, seed=1)).all()


def test_models_of_the_other_pairs_attack_each_model() -> None:
    """Against a loop; whether an image is a member does not change how many models of either kind there are."""
    inside, confidences = halves(LABELS, 8, 0), np.random.default_rng(0).normal(size=(8, 40))
    scores = attacked(confidences, inside, Lira(shadows=8))
    for target in range(8):
        others = [model for model in range(8) if model // 2 != target // 2]
        for image in range(0, 40, 7):
            sides = [[confidences[m, image] for m in others if inside[m, image] == seen] for seen in (True, False)]
            assert list(map(len, sides)) == [3, 3]
            expected = lira_scores([confidences[target, image]], *([side] for side in sides))
            assert scores[target, image] == pytest.approx(expected[0], rel=1e-12)


@pytest.mark.parametrize("lira", [Lira(), Lira(mode="offline"), Lira(fixed_variance=True)])
def test_what_does_not_depend_on_membership_tells_nothing_of_it(lira: Lira) -> None:
    rng = np.random.default_rng(0)
    inside = halves(np.repeat(np.arange(10), 40), 16, 0)
    confidences = rng.normal(size=(16, 400)) * rng.uniform(0.5, 3, 400) + rng.normal(size=400)
    roc = Roc.of(attacked(confidences, inside, lira).ravel(), inside.ravel())
    assert roc.auc == pytest.approx(0.5, abs=0.03)
    assert roc.tpr_at(0.01).value < 0.03  # type: ignore[union-attr]


def test_what_is_found_is_named_and_what_cannot_be_told_is_left_out() -> None:
    """6 models of 40 images: 120 decisions on non-members tell 1 % from none, not .1 %."""
    rng, inside = np.random.default_rng(0), halves(LABELS, 6, 0)
    logits = rng.normal(size=(6, 40, 5))
    logits[:, np.arange(40), LABELS] += 20 * inside
    found = dict(leaked(logits, LABELS, inside, Lira(shadows=6, fixed_variance=True)))
    assert found["auc"] == found["tpr_at_1_percent"] == 1
    assert found["tpr_at_1_percent/low"] == pytest.approx(0.025 ** (1 / 120))
    assert not any("0.1_percent" in name for name in found)
    assert found["accuracy"] < 0.5  # of images that a model did not see
    curve = {float(name.removeprefix("roc/")): value for name, value in found.items() if name.startswith("roc/")}
    assert min(curve) == pytest.approx(1 / 120, rel=1e-5)
    assert curve[1.0] == 1


def recipe(splits: Splits, **changes: Any) -> Recipe:
    return Recipe(
        lira=Lira(shadows=6),
        classifier=Classifier(updates=4, evaluations=1, batch_size=16),
        validation=splits.validation.take(slice(50)),
        **changes,
    )


def tiny_generator(splits: Splits) -> Generator[Any]:
    settings = Diffusion(block_out_channels=(8,), layers_per_block=1, steps=2, batch_size=4, attention_resolutions=())
    generate = Generate(num_inference_steps=2)
    return generator_of(settings, generate, class_names=splits.train.class_names, shape=splits.train.shape)


def upside_down(real: Any, generator: Generator[Any], seed: int) -> ImageSet:
    return ImageSet(pixels=real.images()[:, ::-1].copy(), labels=real.labels, class_names=real.class_names)


def test_nothing_is_trained_unless_it_is_asked_for(splits: Splits) -> None:
    assert list(membership(context_of(splits.train, splits.train))) == []


def test_both_kinds_of_shadow_models_are_attacked(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator that gives every half back upside down stands for one that is trained on it."""
    monkeypatch.setattr(shadows, "made_from", upside_down)
    pool = splits.train.take(np.flatnonzero(splits.train.labels < 3))
    context = context_of(pool, pool)
    asked = recipe(splits, generator=tiny_generator(splits))
    found = dict(membership(replace(context, shadows=asked)))
    assert found["lira/shadows"] == 6
    assert found["lira/images_per_class"] == 3  # ten of three classes, of ten
    assert found["lira/non_members"] == 6 * 15
    assert 0 <= found["lira/synthetic/auc"] != found["lira/real/auc"] <= 1


@pytest.mark.slow
def test_a_shadow_models_generator_sees_its_half_alone(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    half, generator = splits.train.take(np.arange(0, 100, 3)), tiny_generator(splits)
    fitter, seen = type(generator).fitter, []

    def watched(self: Any, folder: Any, images: Any, *more: Any) -> Any:
        seen.append(images)
        return fitter(self, folder, images, *more)

    monkeypatch.setattr(type(generator), "fitter", watched)
    made = made_from(half, generator, 5)
    assert seen == [half]
    assert made.counts.tolist() == half.counts.tolist()
    assert made.shape == half.shape
    assert (made.pixels == made_from(half, generator, 5).pixels).all()
    assert (made.pixels != made_from(half, generator, 6).pixels).any()


def test_images_and_generators_that_cannot_be_halved_are_refused(splits: Splits, tmp_path: Path) -> None:
    check_pool(np.array([2, 3]), tiny_generator(splits))
    with pytest.raises(InputError, match=r"of which a class has 1; .* --set evaluate.lira=null"):
        check_pool(np.array([2, 1]), None)
    folder = generator_of(ImageFolder(path=str(tmp_path)), Generate(), class_names=("a",), shape=(8, 8, 1))
    with pytest.raises(InputError, match=r"needs one generator, which the run trains itself; type --set evaluate.lira"):
        check_pool(np.array([2]), folder)


def test_a_plan_knows_the_shadow_models(tmp_path: Path) -> None:
    """16 of 50 real images each, and as many of synthetic ones with a generator of 400 steps."""
    taken = {}
    for synthetic in (False, True):
        e = load_experiment(DIGITS, {"evaluate.lira": {"synthetic": synthetic}})
        work = work_of(Run(e, RunFolder(tmp_path / "out"), Reporter()))
        stage = next(stage for stage in work.stages if "shadow models" in stage.plan)
        assert "training 16 shadow models on 50 real images each" in stage.plan
        tasks = {task.name: task for group in stage.groups for task in group.tasks}
        taken[synthetic] = dict(tasks["membership"].takes)
    assert taken[False] == {"training": 16, "training_image": 800, "training_update_one_side": 6400}
    assert taken[True] == {
        **{unit: 2 * many for unit, many in taken[False].items()}, "generator_step": 6400, "image": 800,
    }  # fmt: skip


@pytest.mark.slow
def test_what_was_learnt_by_heart_is_found(digits: ImageSet) -> None:
    """200 digits in each model, with labels drawn at random: nothing but memory can tell them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 400)
    pool = ImageSet(
        pixels=digits.images()[rng.permutation(len(digits))[:400]], labels=labels, class_names=digits.class_names
    )
    by_heart = Classifier(updates=500, keep="last", evaluations=1, weight_decay=0.0)
    inside = halves(labels, 8, 0)
    asked = Recipe(lira=Lira(shadows=8), classifier=by_heart, validation=pool.take(slice(10)))
    logits = shadow_logits(pool, asked, inside, "real", 0)
    assert (logits.argmax(-1) == labels)[inside].mean() > 0.95
    found = dict(leaked(logits, labels, inside, Lira(shadows=8, fixed_variance=True)))
    assert found["tpr_at_1_percent"] > 0.5
    assert by_other_draws(logits, labels).mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.slow
@pytest.mark.long
def test_a_run_that_asks_for_it_says_so(tmp_path: Path) -> None:
    rs.run(DIGITS, out=tmp_path / "run", overrides={**TINY, "evaluate.lira": {"shadows": 6, "synthetic": True}})
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {"lira/real/auc", "lira/synthetic/auc", "lira/real/tpr_at_1_percent/high"} <= set(metrics)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "What a classifier leaks about its training images" in page
    assert "Few shots leak most" in page
