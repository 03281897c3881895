"""States that go on bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import torch as safetensors

from ray_synth.errors import Spoiled
from ray_synth.runs import RunFolder
from ray_synth.training.average import Ema
from ray_synth.training.checkpoint import (
    opened,
    optimizer_tensors,
    pack,
    refuse_torn,
    restore_optimizer,
    sealed,
    trainable_state,
    unpack,
)
from ray_synth.training.recipe import make_optimizer
from tests.training.networks import OPTIMIZERS, network, recipe_of, train


def through_a_file(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return safetensors.load(safetensors.save(tensors))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_saved_and_restored_it_goes_on_bit_for_bit(optimizer: str, memory: torch.memory_format) -> None:
    straight = network().to(memory_format=memory)
    ema = Ema(straight, 0.9)
    train(straight, make_optimizer(straight, recipe_of(optimizer)), range(10), ema)

    first = network().to(memory_format=memory)
    first_optimizer, first_ema = make_optimizer(first, recipe_of(optimizer)), Ema(first, 0.9)
    train(first, first_optimizer, range(5), first_ema)
    weights = through_a_file(trainable_state(first))
    state, average = through_a_file(optimizer_tensors(first_optimizer)), through_a_file(first_ema.tensors())

    second = network(seed=1).to(memory_format=memory)
    second.load_state_dict(weights)
    second_optimizer, second_ema = make_optimizer(second, recipe_of(optimizer)), Ema(second, 0.9)
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
    made = make_optimizer(model, recipe_of(optimizer))
    assert optimizer_tensors(made) == {}
    restore_optimizer(made, {})
    train(model, made, range(1))
    saved = optimizer_tensors(made)
    kept = {name: value.clone() for name, value in saved.items()}
    train(model, made, range(1, 2))
    assert all(torch.equal(saved[name], kept[name]) for name in kept)
    assert len({name for name in saved if name.startswith("state/")}) >= len(list(model.parameters()))


def test_an_older_version_is_not_read() -> None:
    older = {"step": torch.tensor(3)}, {"progress": torch.zeros(2), "model/0.weight": torch.zeros(2)}
    assert [unpack(safetensors.save(tensors)) for tensors in older] == [None, None]
    parts = {"loop": {"done": torch.tensor(3)}, "kept": {"best/0.weight": torch.zeros(2)}, "bank": {}}
    assert {part: list(names) for part, names in (unpack(pack(parts)) or {}).items()} == {
        "loop": ["done"],
        "kept": ["best/0.weight"],
    }


WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7)}
SEALED = sealed(WEIGHTS, {"accuracy": "0.5"})


def test_a_sealed_file_is_plain_safetensors() -> None:
    assert {name: value.tolist() for name, value in safetensors.load(SEALED).items()} == {
        name: value.tolist() for name, value in WEIGHTS.items()
    }
    tensors, metadata = opened(SEALED)
    assert torch.equal(tensors["a"], WEIGHTS["a"])
    assert metadata["accuracy"] == "0.5"
    assert opened(safetensors.save(WEIGHTS))[0].keys() == WEIGHTS.keys()  # of an older version


@given(place=st.integers(0, len(SEALED) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_of_weights_is_noticed(place: int, bit: int) -> None:
    changed = bytearray(SEALED)
    changed[place] ^= 1 << bit
    try:
        tensors, metadata = opened(bytes(changed))
    except ValueError:
        return
    # In the word sha256 itself: nothing else is another.
    assert metadata["accuracy"] == "0.5"
    assert all(torch.equal(tensors[name], value) for name, value in WEIGHTS.items())


@given(length=st.integers(0, len(SEALED) - 1))
def test_torn_weights_are_noticed(length: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        opened(SEALED[:length])


def test_a_torn_checkpoint_is_begun_anew_and_named(tmp_path: Path) -> None:
    data, folder = pack({"loop": {"done": torch.tensor(3)}}), RunFolder(tmp_path)
    for spoiled in (b"", data[:50], data[:-1] + bytes([data[-1] ^ 1]), b"\xff" * 100):
        assert unpack(spoiled) is None
        folder.write("a.checkpoint", spoiled)
        with pytest.raises(Spoiled, match=r"a\.checkpoint cannot be read: .*; move it away and run the same") as error:
            refuse_torn(folder, "a.checkpoint")
        assert error.value.names == ("a.checkpoint",)
    folder.write("a.checkpoint", data)
    refuse_torn(folder, "a.checkpoint")
    refuse_torn(folder, "b.checkpoint")
