"""The average of the weights against its recursion."""

from __future__ import annotations

import torch

from ray_synth.training.average import Ema
from ray_synth.training.recipe import make_optimizer
from tests.training.networks import network, recipe_of, train


def test_the_average_is_the_recursion_and_buffers_are_the_last() -> None:
    model = network()
    ema = Ema(model, 0.5)
    optimizer = make_optimizer(model, recipe_of())
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
    model = network().requires_grad_(False)
    model[5].requires_grad_(True)
    assert set(Ema(model, 0.9).tensors()) == {"average/5.weight", "average/5.bias"}
