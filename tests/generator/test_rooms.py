"""Prompts, filters, memory and death: what happens to one chunk between its plan and its file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from ray_synth.config import Filter, StableDiffusion
from ray_synth.data.images import ImageSet
from ray_synth.data.splits import Splits
from ray_synth.errors import InputError, WorkError
from ray_synth.generator.attempts import HOPELESS, REASON, TRIES, Attempts
from ray_synth.generator.batches import Batch, InBatches
from ray_synth.generator.chunks import Chunk, Plan
from ray_synth.generator.conditions import Parents, conditions, filled
from ray_synth.generator.describe import read_captions
from ray_synth.generator.filtering import NearCopies, build_filters, is_blank
from ray_synth.generator.generate import sample_chunk
from ray_synth.runs import RunFolder

PLAN = Plan(generator_digest="0" * 64, chunk_digest="1" * 64, num_classes=2, images_per_class=9, chunk_size=9)
CHUNK = Chunk("1" * 12, 1, 3, 9)


def model(**settings: object) -> StableDiffusion:
    return StableDiffusion(model="m", **settings)


# Prompts and parents


@pytest.mark.parametrize("name", ["cat", "a/b", "..", 'say "hi"', "😀", "{dataset}", "{", "a } b"])
def test_a_class_name_is_text_and_nothing_else(name: str) -> None:
    settings = model(dataset="satellite", prompt="a {dataset} photo of a {class}")
    assert filled(settings.prompt[0], name, settings) == f"a satellite photo of a {name}"


def test_prompts_take_templates_words_and_captions() -> None:
    parents = Parents(
        images=np.zeros((3, 2, 2, 3), np.uint8),
        labels=np.array([0, 1, 1]),
        keys=list("xyz"),
        captions=["-", "red", "blue"],
    )
    settings = model(
        prompt=["photo of {class}, {caption}", "a {dataset} photo of {class}"],
        captions={"path": "captions.csv"},
        class_words={"n02123045": "tabby"},
        negative_prompt="no {class}",
    )
    batch = conditions(PLAN, CHUNK, settings, ["n0", "n02123045"], parents)
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
    assert (one.images == other.images).all()
    assert [one.labels[one.row_of(3, index)] for index in range(25)] == [3] * 25
    assert len({one.row_of(3, index) for index in range(10)}) == 10  # ten real ones, each once


def test_captions_come_from_the_usual_files(tmp_path: Path) -> None:
    images = ImageSet(
        images=np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1),
        labels=np.array([0, 1]),
        class_names=("a", "b"),
        sources=np.array([str(tmp_path / "a" / "1.png"), str(tmp_path / "b" / "2.png")], dtype=object),
    )
    csv, lines = tmp_path / "metadata.csv", tmp_path / "metadata.jsonl"
    csv.write_text('file_name,text\na/1.png,"one, red"\nb/2.png,two\n')
    rows = [{"file_name": "a/1.png", "text": "one, red"}, {"file_name": "b/2.png", "text": "two"}]
    lines.write_text("\n".join(json.dumps(row) for row in rows))
    for file in (csv, lines):
        assert read_captions(str(file), images, str(tmp_path)) == dict(
            zip(images.keys(), ["one, red", "two"], strict=True)
        )
    csv.write_text("file_name,text\na/1.png,one\n")
    with pytest.raises(InputError, match=r"no caption for b/2\.png"):
        read_captions(str(csv), images, str(tmp_path))
    csv.write_text("file,caption\na/1.png,one\n")
    with pytest.raises(InputError, match="columns file_name and text"):
        read_captions(str(csv), images, str(tmp_path))


# Filters


def judged(filter: Filter, images: list[np.ndarray], labels: list[int], parents: Parents | None = None) -> list[str]:
    batch: Batch = {"image": images, "label": labels, "rejected": [""] * len(images)}
    found: list[str] = build_filters(filter, ["a", "b"], parents)(batch)["rejected"]
    return found


def test_blank_images_are_rejected_and_dark_ones_are_not() -> None:
    dark = np.zeros((8, 8, 3), np.uint8)
    dark[3, 3] = 40
    colours = np.zeros((8, 8, 3), np.uint8) + np.array([250, 10, 90], np.uint8)
    assert [is_blank(image) for image in (dark, colours, np.zeros((8, 8, 1), np.uint8))] == [False, True, True]
    assert judged(Filter(), [dark, colours], [0, 1]) == ["", "blank"]
    assert judged(Filter(blank=False), [dark, colours], [0, 1]) == ["", ""]


def test_near_copies_are_found_whatever_was_done_to_them(splits: Splits) -> None:
    """Copies that are larger, brighter, noisy or shifted in contrast, against other real images of the same kind."""
    real, new = splits.generator.images, splits.test.images[:200]
    judge = NearCopies(real)
    rng = np.random.default_rng(0)
    some = real[:200].astype(float)
    changed = {
        "same": some,
        "darker": 0.7 * some,
        "noisy": some + rng.normal(0, 4, some.shape),
        "larger": some.repeat(3, axis=1).repeat(3, axis=2),
        "colour": some.repeat(3, axis=3),
    }
    for name, images in changed.items():
        found = judge(list(np.clip(np.round(images), 0, 255).astype(np.uint8)), [0] * 200)
        assert found.mean() > 0.9, name
    assert judge(list(new), [0] * 200).mean() < 0.05
    assert judged(
        Filter(near_copies=True),
        [real[0], new[0]],
        [0, 0],
        Parents(images=real, labels=splits.generator.labels, keys=[]),
    ) == ["near_copy", ""]


@pytest.fixture(scope="module")
def clip_weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A small open_clip architecture with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (folder / "tiny-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "tiny-clip.json")
    torch.manual_seed(0)
    save_file(open_clip.create_model("tiny-clip").state_dict(), folder / "weights.safetensors")
    return "tiny-clip", folder / "weights.safetensors"


@pytest.mark.parametrize("rule", ["argmax", "above_chance"])
def test_clip_judges_as_open_clip_by_hand(clip_weights: tuple[str, Path], splits: Splits, rule: str) -> None:
    name, weights = clip_weights
    filter = Filter(clip={"model": name, "weights": str(weights), "rule": rule, "prompt": "an image of {class}"})
    images = [image.repeat(4, axis=0).repeat(4, axis=1) for image in splits.test.images[:40]]
    labels = [0, 1] * 20
    ours = judged(filter, images, labels)
    model = open_clip.create_model(name, pretrained=str(weights), weights_only=True).eval()
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).expand(-1, 3, -1, -1).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.visual.image_mean, model.visual.image_std))
    with torch.no_grad():
        tokens = open_clip.get_tokenizer(name)(["an image of a", "an image of b"])
        text = model.encode_text(tokens, normalize=True)
        seen = model.encode_image((pixels - mean) / std, normalize=True)
        p = (model.logit_scale.exp() * seen @ text.T).softmax(dim=1).numpy()
    kept = p.argmax(axis=1) == labels if rule == "argmax" else p[np.arange(40), labels] > 0.5
    assert ours == ["" if k else "clip" for k in kept]
    assert 0 < sum(kept) < 40


def test_clip_weights_that_are_missing_or_of_another_model_are_named(
    clip_weights: tuple[str, Path], tmp_path: Path
) -> None:
    name, weights = clip_weights
    for clip in ({"model": name, "weights": str(tmp_path / "none")}, {"model": "ViT-B-32", "weights": str(weights)}):
        with pytest.raises(InputError, match="open_clip"):
            build_filters(Filter(clip=clip), ["a", "b"], None)


# Memory


class Small:
    """A sampler with room for `room` images."""

    def __init__(self, room: int, error: Exception):
        self.room, self.error, self.sizes = room, error, list[int]()

    def __call__(self, batch: Batch) -> Batch:
        self.sizes.append(len(batch["key"]))
        if len(batch["key"]) > self.room:
            raise self.error
        return {
            **batch,
            "image": [np.full((1, 1, 1), k, np.uint8) for k in batch["key"]],
            "rejected": [""] * self.sizes[-1],
        }


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(error: Exception) -> None:
    small = Small(5, error)
    sampler = InBatches(small, 32)
    made = sampler({"key": list(range(70))})
    assert [int(image[0, 0, 0]) for image in made["image"]] == list(range(70))
    assert small.sizes[:4] == [32, 16, 8, 4]
    assert set(small.sizes[4:]) <= {4, 2}
    sampler({"key": list(range(4))})
    assert small.sizes[-1] == 4  # what did not fit is not tried again
    padded = InBatches(Small(5, error), 32, pad=True)
    made = padded({"key": list(range(70))})
    assert [int(image[0, 0, 0]) for image in made["image"]] == list(range(70))
    assert set(padded.sampler.sizes[3:]) == {4}  # one size for a compiled model, after a smaller one was found
    with pytest.raises(WorkError, match="single image"):
        InBatches(Small(0, error), 8)({"key": [1]})
    with pytest.raises(ZeroDivisionError):
        InBatches(Small(0, ZeroDivisionError()), 8)({"key": [1]})


# Death


class Death(BaseException):
    """As SIGKILL: nothing of the worker runs after it."""


class Worker:
    """Dies of `deadly` images, and with its first batches where `others` says so."""

    def __init__(self, deadly: set[int] = frozenset(), others: int = 0):  # type: ignore[assignment]
        self.deadly, self.others, self.deaths, self.tried = deadly, others, 0, list[int]()

    def sample(self, batch: Batch) -> Batch:
        if len(batch["index"]) == 1:
            self.tried += batch["index"]
        if self.deadly & set(batch["index"]) or (len(batch["index"]) > 1 and self.deaths < self.others):
            raise Death
        return {**batch, "image": batch["index"], "rejected": [""] * len(batch["index"])}

    def until_done(self, folder: RunFolder) -> Batch:
        """Start again after each death, as Ray does; what the dead one noted is all that is left of it."""
        while True:
            attempts = Attempts(folder, CHUNK)
            last_words = attempts._note
            attempts._note = lambda what, note=last_words: note(what) if what is not None else None  # type: ignore
            try:
                rows = conditions(PLAN, CHUNK, model(), ["a", "b"], None)
                return sample_chunk(self.sample, rows, attempts, CHUNK)
            except Death:
                self.deaths += 1
                assert self.deaths < 30


def test_an_image_that_kills_its_worker_is_set_aside_after_three_tries(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    worker = Worker({5})
    made = worker.until_done(folder)
    assert made["index"] == list(range(3, 9))
    assert made["rejected"] == ["", "", REASON, "", "", ""]
    assert worker.tried.count(5) == TRIES == 3
    assert worker.deaths == 2 + TRIES
    assert folder.list("attempts") == []


def test_two_deadly_images_and_a_chunk_of_nothing_else(tmp_path: Path) -> None:
    made = Worker({3, 8}).until_done(RunFolder(tmp_path / "two"))
    assert [i for i, r in zip(made["index"], made["rejected"], strict=True) if r] == [3, 8]
    made = Worker(set(range(3, 9))).until_done(RunFolder(tmp_path / "all"))
    assert set(made["rejected"]) == {REASON}


def test_machines_that_are_taken_back_set_nothing_aside(tmp_path: Path) -> None:
    """Deaths that hit a whole batch again and again: every image proves innocent, and the chunk is made as ever."""
    worker = Worker(others=4)
    made = worker.until_done(RunFolder(tmp_path))
    assert worker.deaths == 4
    assert made["rejected"] == [""] * 6
    assert sorted(worker.tried) == list(range(3, 9))  # each looked at once


def test_a_batch_that_is_too_much_as_a_whole_is_made_one_by_one(tmp_path: Path) -> None:
    """The machine's memory ends the worker with every batch, and with no image of it."""
    worker = Worker(others=1000)
    made = worker.until_done(RunFolder(tmp_path))
    assert made["rejected"] == [""] * 6
    assert made["image"] == list(range(3, 9))
    assert worker.deaths == HOPELESS


def test_an_error_that_is_told_is_no_death(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)

    def sampler(batch: Batch) -> Batch:
        raise OSError("no space left")

    for _ in range(4):
        attempts = Attempts(folder, CHUNK)
        assert not attempts.suspected
        with pytest.raises(OSError, match="no space"):
            sample_chunk(sampler, conditions(PLAN, CHUNK, model(), ["a", "b"], None), attempts, CHUNK)
