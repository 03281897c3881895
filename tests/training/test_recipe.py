"""Schedules by hand, optimizers against their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ray_synth.training.recipe import Recipe, Schedule, make_optimizer
from tests.training.networks import OPTIMIZERS, network, recipe_of, train


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_only_what_is_trained_is_touched(optimizer: str) -> None:
    model = network()
    model[0].requires_grad_(False)
    made = make_optimizer(model, recipe_of(optimizer))
    assert sum(len(group["params"]) for group in made.param_groups) == 4
    before = model[0].weight.clone()
    train(model, made, range(3))
    assert torch.equal(model[0].weight, before)
    assert {group["weight_decay"] for group in made.param_groups} == {0.05}  # of biases too


def test_the_first_steps_are_those_of_the_formulas() -> None:
    for optimizer, moved in (
        # Loshchilov & Hutter, 2019: the first step of Adam is the sign of the gradient; decay apart from it
        ("adamw", lambda w, g: w * (1 - 0.01 * 0.05) - 0.01 * g.sign()),
        # Nesterov, momentum buffer = d: d + .9 d, where d = g + decay * w
        ("sgd", lambda w, g: w - 0.01 * 1.9 * (g + 0.05 * w)),
        # You et al., 2020: sign(g) + decay * w, as long as the weight
        ("lamb", lambda w, g: w - 0.01 * w.norm() * F.normalize(g.sign() + 0.05 * w, dim=0)),
    ):
        model = nn.Linear(4, 1, bias=False)
        gradient = torch.tensor([[0.3, -0.2, 0.4, -0.1]])  # shorter than LAMB's clip of 1
        before = model.weight.detach().clone()
        model.weight.grad = gradient.clone()
        make_optimizer(model, recipe_of(optimizer)).step()
        expected = moved(before.flatten(), gradient.flatten())
        torch.testing.assert_close(model.weight.detach().flatten(), expected, atol=1e-5, rtol=1e-4)


def rates(updates: int, learning_rate: float, **schedule: Any) -> list[float]:
    recipe = Recipe(updates=updates, learning_rate=learning_rate, schedule=Schedule(**schedule))
    return [recipe.rate(step) for step in range(updates)]


def test_the_cosine_is_the_plain_one() -> None:
    assert rates(7, 0.3) == [0.3 * (0.5 * (1 + math.cos(math.pi * step / 7))) for step in range(7)]


def test_multistep_falls_at_its_milestones() -> None:
    found = rates(8, 1.0, name="multistep", milestones=(4, 6), gamma=0.1)
    assert found == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_warm_up_rises_in_a_line_and_ends() -> None:
    assert rates(10, 2.0, name="constant", warmup=4) == pytest.approx([0.5, 1.0, 1.5, 2, 2, 2, 2, 2, 2, 2])
    found = rates(100, 1.0, warmup=10)
    assert [found[0], found[4], found[50]] == pytest.approx([0.1, 0.5 * 0.5 * (1 + math.cos(0.04 * math.pi)), 0.5])
    assert rates(100, 1.0)[0] == 1
