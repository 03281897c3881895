"""The loop: cut off and resumed, it ends in the same bytes; gradients are cut, and bad ones left out where asked."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from ray_synth.errors import WorkError
from ray_synth.runs import RunFolder
from ray_synth.training.checkpoint import FolderCheckpoints
from ray_synth.training.loop import Loop
from ray_synth.training.recipe import Recipe
from tests.training.networks import OPTIMIZERS, loss_of, network, recipe_of


def loop_of(recipe: Recipe, seed: int = 0) -> tuple[Loop, nn.Module]:
    model = network(seed)
    return Loop(model, recipe, diverged="{loss} at {done}"), model


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_cut_off_and_resumed_it_ends_in_the_same_bytes(optimizer: str, tmp_path: Path) -> None:
    recipe, kept_at = recipe_of(optimizer, ema_decay=0.9, clip_norm=0.5), range(5, 12, 5)
    whole, model = loop_of(recipe)
    assert list(whole.run(lambda step: loss_of(model, step), kept_at=kept_at)) == list(range(1, 13))
    checkpoints = FolderCheckpoints(RunFolder(tmp_path), "training.checkpoint")
    first, cut = loop_of(recipe)
    assert first.resume(checkpoints) == 0
    for done in first.run(lambda step: loss_of(cut, step), kept_at=kept_at, checkpoints=checkpoints):
        if done == 10:
            break  # before its checkpoint is written
    second, resumed = loop_of(recipe, seed=1)
    assert second.resume(checkpoints) == 5
    assert list(second.run(lambda step: loss_of(resumed, step))) == list(range(6, 13))
    assert second.saved() == whole.saved()
    with second.averaged():
        assert not torch.equal(resumed[0].weight, model[0].weight)
    assert torch.equal(resumed[0].weight, model[0].weight)
    with pytest.raises(WorkError, match="belongs to another model"):
        Loop(nn.Linear(2, 2), recipe).resume(checkpoints)


def test_a_checkpoint_of_an_older_version_is_begun_anew(tmp_path: Path) -> None:
    from safetensors.torch import save

    folder = RunFolder(tmp_path)
    folder.write("old", save({"step": torch.tensor(7)}))
    assert loop_of(recipe_of())[0].resume(FolderCheckpoints(folder, "old")) == 0


def test_what_else_the_next_update_depends_on_is_kept_too(tmp_path: Path) -> None:
    class Counter:
        def __init__(self) -> None:
            self.count = torch.zeros(1)

        def tensors(self) -> dict[str, torch.Tensor]:
            return {"count": self.count}

        def restore(self, tensors: dict[str, torch.Tensor]) -> None:
            self.count = tensors["count"]

    checkpoints, counters = FolderCheckpoints(RunFolder(tmp_path), "c"), [Counter(), Counter()]
    loops = [Loop(network(), recipe_of(), also={"counter": counter}) for counter in counters]
    for _ in loops[0].run(lambda step: loss_of(loops[0].model, step), kept_at=[11], checkpoints=checkpoints):
        counters[0].count += 1
    assert loops[1].resume(checkpoints) == 11
    assert counters[1].count == 11


def test_gradients_are_cut_to_the_norm_that_is_allowed() -> None:
    model = nn.Linear(4, 1, bias=False)
    before = model.weight.detach().clone()
    loop = Loop(model, recipe_of("sgd", learning_rate=1.0, weight_decay=0.0, clip_norm=0.5, updates=1))
    list(loop.run(lambda step: (model.weight * torch.tensor([[3.0, 0, 4, 0]])).sum()))
    torch.testing.assert_close(before - model.weight.detach(), 1.9 * torch.tensor([[0.3, 0, 0.4, 0]]))


def test_a_bad_update_is_left_out_where_asked_but_not_many_in_a_row() -> None:
    def run(bad: set[int], most_skipped: int) -> list[float]:
        loop, model = loop_of(recipe_of("sgd", ema_decay=0.5, most_skipped=most_skipped))
        moved = []
        for _ in loop.run(lambda step: loss_of(model, step) * (math.nan if step in bad else 1), kept_at=[12]):
            moved.append(float(model[5].weight.detach()[0, 0]))
        return moved

    moved = run({3, 4, 8}, most_skipped=2)
    assert moved[2] == moved[3] == moved[4] != moved[5]
    assert moved[7] == moved[8]
    assert all(map(math.isfinite, moved))
    with pytest.raises(WorkError, match="nan at 6"):
        run({3, 4, 5}, most_skipped=2)
    with pytest.raises(WorkError, match="nan at 12"):
        run({3}, most_skipped=0)  # nobody looked until the loss had to be finite
