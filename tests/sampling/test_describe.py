"""Captions and embeddings of real images, against transformers called by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPImageProcessor, CLIPVisionModelWithProjection

from ray_synth.config import Captions, Generate, StableDiffusion, VisualGuidance
from ray_synth.data.splits import Splits
from ray_synth.generator import Generator, generator_of
from ray_synth.generator.base import Parents
from ray_synth.generator.describe import Embedder
from ray_synth.generator.tiny import tiny_captioner, tiny_vision_encoder
from ray_synth.runs import RunFolder
from ray_synth.sampling import describe as room
from ray_synth.sampling.describe import DescribePieces, described_parents


@pytest.fixture
def parents(splits: Splits) -> Parents:
    real = splits.train
    return Parents.of(real.take(np.arange(len(real))))


def generator(**settings: object) -> Generator[Any]:
    section = StableDiffusion(model="m", **settings)
    return generator_of(section, Generate(), class_names=tuple("0123456789"), shape=(8, 8, 1))


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Without Ray: the actor in this process. Returns the pieces that were made."""
    made: list[int] = []

    def over_pool(items: list[dict[str, int]], worker: type, arguments: tuple[object, ...], shared: Parents):
        actor = worker(*arguments, shared, "cpu")
        for item in items:
            made.append(item["start"])
            yield actor(item)

    monkeypatch.setattr(room, "over_pool", over_pool)
    return made


def test_captions_are_those_of_the_model_and_are_kept(tmp_path: Path, parents: Parents, here: list[int]) -> None:
    model = tiny_captioner(tmp_path / "blip")
    captions = Captions(model={"model": str(model)}, max_new_tokens=6, batch_size=32)
    settings = generator(prompt="photo of {class}, {caption}", captions=captions)
    folder = RunFolder(tmp_path / "run")
    found = described_parents(folder, parents, settings, None, {"captions": "r"}).captions
    assert found is not None
    processor, blip = AutoProcessor.from_pretrained(model), AutoModelForImageTextToText.from_pretrained(model).eval()
    for row in (0, 63, 64, 99):
        image = np.broadcast_to(parents.source.images()[row], (8, 8, 3))
        tokens = blip.generate(**processor(images=[image], return_tensors="pt"), max_new_tokens=6, do_sample=False)
        assert found[row] == processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    assert len(set(found)) > 1
    assert here == [0, 64]
    # A kill loses one piece at most.
    folder.remove(f"generator/captions/{folder.list('generator/captions')[0]}/00000064.parquet")
    assert described_parents(folder, parents, settings, None, {"captions": "r"}).captions == found
    assert here == [0, 64, 64]


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_embeddings_are_those_of_clip(tmp_path: Path, parents: Parents, variant: str) -> None:
    model = tiny_vision_encoder(tmp_path / "clip")
    settings = generator(visual_guidance=VisualGuidance(encoder={"model": str(model)}, variant=variant, untrained=True))
    found = described_parents(RunFolder(tmp_path / "run"), parents, settings, None, {"visual_guidance": "r"}).embeddings
    assert found is not None
    images = [np.broadcast_to(image, (8, 8, 3)) for image in parents.source.images()]
    clip = CLIPVisionModelWithProjection.from_pretrained(model).eval()
    with torch.no_grad():
        each = clip(**CLIPImageProcessor.from_pretrained(model)(images=images, return_tensors="pt")).image_embeds
    if variant == "released":
        assert np.allclose(found, each, atol=1e-5)
    else:
        means = np.stack([each.numpy()[parents.labels == label].mean(axis=0) for label in range(10)])
        assert np.allclose(found, means, atol=1e-5)


def test_a_piece_is_written_once(tmp_path: Path, parents: Parents) -> None:
    actor = DescribePieces(str(tmp_path), "generator/embeddings/x", Embedder(VisualGuidance(
        encoder={"model": str(tiny_vision_encoder(tmp_path / "clip"))})), parents, "cpu")  # fmt: skip
    assert actor({"start": 64}) == 36
    assert RunFolder(tmp_path).list("generator/embeddings/x") == ["00000064.parquet"]
