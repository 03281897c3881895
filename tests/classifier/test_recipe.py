"""Schedules by hand, optimizers against their formulas, averages, and states that go on bit for bit."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from safetensors import torch as safetensors
from torch import nn

from ray_synth.classifier.models import build_model, trainable_state
from ray_synth.classifier.recipe import Ema, learning_rate, make_optimizer, optimizer_tensors, restore_optimizer
from ray_synth.config import Classifier, Schedule

OPTIMIZERS = ["adamw", "sgd", "lamb"]


def settings_of(optimizer: str = "adamw", **more) -> Classifier:
    return Classifier(optimizer=optimizer, learning_rate=0.01, weight_decay=0.05, **more)


def network(seed: int = 0) -> nn.Module:
    """Convolutions, batch statistics, biases: whatever an optimizer may treat differently."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
        )


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, ema: Ema | None = None) -> None:
    for step in steps:
        random = torch.Generator().manual_seed(step)
        x, y = torch.randn(6, 3, 9, 9, generator=random), torch.randint(0, 4, (6,), generator=random)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings_of(), step, 12)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if ema is not None:
            ema.update(model, step)


def through_a_file(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return safetensors.load(safetensors.save(tensors))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_saved_and_restored_it_goes_on_bit_for_bit(optimizer: str, memory: torch.memory_format) -> None:
    straight = network().to(memory_format=memory)
    ema = Ema(straight, 0.9)
    train(straight, make_optimizer(straight, settings_of(optimizer)), range(10), ema)

    first = network().to(memory_format=memory)
    first_optimizer, first_ema = make_optimizer(first, settings_of(optimizer)), Ema(first, 0.9)
    train(first, first_optimizer, range(5), first_ema)
    weights = through_a_file(trainable_state(first))
    state, average = through_a_file(optimizer_tensors(first_optimizer)), through_a_file(first_ema.tensors())

    second = network(seed=1).to(memory_format=memory)
    second.load_state_dict(weights)
    second_optimizer, second_ema = make_optimizer(second, settings_of(optimizer)), Ema(second, 0.9)
    restore_optimizer(second_optimizer, state)
    second_ema.restore(average)
    train(second, second_optimizer, range(5, 10), second_ema)

    for name, value in straight.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name
    for name, value in ema.tensors().items():
        assert torch.equal(second_ema.tensors()[name], value), name
    for name, value in optimizer_tensors(second_optimizer).items():
        assert value.dtype == state[name].dtype, name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_nothing_is_saved_before_the_first_step_and_copies_are(optimizer: str) -> None:
    model = network()
    made = make_optimizer(model, settings_of(optimizer))
    assert optimizer_tensors(made) == {}
    restore_optimizer(made, {})
    train(model, made, range(1))
    saved = optimizer_tensors(made)
    kept = {name: value.clone() for name, value in saved.items()}
    train(model, made, range(1, 2))
    assert all(torch.equal(saved[name], kept[name]) for name in kept)
    assert len({name for name in saved if name.startswith("state/")}) >= len(list(model.parameters()))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_only_what_is_trained_is_touched(optimizer: str) -> None:
    model = network()
    model[0].requires_grad_(False)
    made = make_optimizer(model, settings_of(optimizer))
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
        make_optimizer(model, settings_of(optimizer)).step()
        expected = moved(before.flatten(), gradient.flatten())
        torch.testing.assert_close(model.weight.detach().flatten(), expected, atol=1e-5, rtol=1e-4)


def test_the_cosine_is_the_plain_one() -> None:
    settings = Classifier(learning_rate=0.3)
    for step in range(7):
        assert learning_rate(settings, step, 7) == 0.3 * (0.5 * (1 + math.cos(math.pi * step / 7)))


def test_multistep_falls_at_its_milestones() -> None:
    schedule = Schedule(name="multistep", milestones=(0.5, 0.75), gamma=0.1)
    rates = [learning_rate(Classifier(learning_rate=1.0, schedule=schedule), step, 8) for step in range(8)]
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_warm_up_rises_in_a_line_and_ends() -> None:
    schedule = Schedule(name="constant", warmup=0.4)
    rates = [learning_rate(Classifier(learning_rate=2.0, schedule=schedule), step, 10) for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2, 2, 2, 2, 2, 2, 2])
    assert learning_rate(Classifier(learning_rate=2.0, schedule=Schedule(warmup=0.01)), 0, 10) == 2.0  # no step of it


def test_the_average_is_the_recursion_and_buffers_are_the_last() -> None:
    model = network()
    ema = Ema(model, 0.5)
    optimizer = make_optimizer(model, settings_of())
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in range(12):
        train(model, optimizer, range(step, step + 1))
        ema.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, p in model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * p.detach()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with ema.applied(model) as averaged:
        for name, p in averaged.named_parameters():
            torch.testing.assert_close(p.detach(), expected[name])
        assert torch.equal(averaged[1].running_mean, before["1.running_mean"])
        assert int(averaged[1].num_batches_tracked) == 12
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    ema.copy_to(model)
    assert not torch.equal(model[0].weight, before["0.weight"])


def test_an_average_of_a_frozen_model_holds_what_is_trained() -> None:
    model = build_model(Classifier(model="resnet18"), (8, 8, 3), ("a", "b"), seed=0)
    model.requires_grad_(False)
    model.network.fc.requires_grad_(True)
    assert set(Ema(model, 0.9).tensors()) == {"average/network.fc.weight", "average/network.fc.bias"}
