"""Prompts and parents of a chunk: what its images are sampled from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ray_synth.config import Generate, StableDiffusion
from ray_synth.data.images import ImageSet
from ray_synth.data.splits import Splits
from ray_synth.generator import Generator, generator_of
from ray_synth.generator.base import Parents
from ray_synth.generator.prompts import filled
from ray_synth.sampling.chunks import Chunk, Plan
from ray_synth.sampling.conditions import conditions

PLAN = Plan(generator_digest="0" * 64, chunk_digest="1" * 64, images_per_class=(9,) * 2, chunk_size=9)
CHUNK = Chunk("1" * 12, 1, 3, 9)


def model(class_names: Sequence[str] = ("a", "b"), **settings: object) -> Generator[Any]:
    section = StableDiffusion(model="m", **settings)
    return generator_of(section, Generate(), class_names=class_names, shape=(2, 2, 3))


@pytest.mark.parametrize("name", ["cat", "a/b", "..", 'say "hi"', "😀", "{dataset}", "{", "a } b"])
def test_a_class_name_is_text_and_nothing_else(name: str) -> None:
    settings = StableDiffusion(model="m", dataset="satellite", prompt="a {dataset} photo of a {class}")
    assert filled(settings.prompt[0], name, settings) == f"a satellite photo of a {name}"


def test_prompts_take_templates_words_and_captions() -> None:
    parents = Parents(
        source=ImageSet(
            pixels=np.zeros((3, 2, 2, 3), np.uint8), labels=np.array([0, 1, 1]), class_names=("n0", "n02123045")
        ),
        keys=list("xyz"),
        captions=["-", "red", "blue"],
    )
    generator = model(
        ["n0", "n02123045"],
        prompt=["photo of {class}, {caption}", "a {dataset} photo of {class}"],
        captions={"path": "captions.csv"},
        class_words={"n02123045": "tabby"},
        negative_prompt="no {class}",
    )
    batch = conditions(PLAN, CHUNK, generator, parents)
    # Indices 3 to 8: templates in turn; parents 1 and 2 of the class in turn.
    assert batch["prompt"][:3] == ["a photo of tabby", "photo of tabby, red", "a photo of tabby"]
    assert [batch["parent_key"][i] for i in range(3)] == ["z", "y", "z"]
    assert set(batch["negative_prompt"]) == {"no tabby"}
    assert batch["key"] == [PLAN.key(1, index) for index in range(3, 9)]


def test_parents_do_not_depend_on_the_order_of_reading(splits: Splits) -> None:
    real = splits.train
    one = Parents.of(real)
    other = Parents.of(real.take(np.random.default_rng(0).permutation(len(real))))
    assert one.keys == other.keys
    assert (one.source.images() == other.source.images()).all()
    assert [one.labels[one.row_of(3, index)] for index in range(25)] == [3] * 25
    assert len({one.row_of(3, index) for index in range(10)}) == 10  # ten real ones, each once
