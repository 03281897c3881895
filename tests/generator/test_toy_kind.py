"""Another kind of generator: one file, one `register`. This file is the kind, and then what the house does with it.

The kind `mean` learns the mean image of each class, a share at every step, and samples it with noise.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from pydantic import Field

import ray_synth as rs
from ray_synth.config import Experiment, GeneratorSettings, load_experiment
from ray_synth.data.source import ImageSource
from ray_synth.errors import InputError
from ray_synth.generator.base import KINDS, Batch, Generator, Origin, Parents, Sampler, register
from ray_synth.pipeline import Run
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.sampling import chunks
from ray_synth.smoke import shrunk, tiny_models
from ray_synth.stages import Finetune, Generate

from ..conftest import DIGITS


class Mean(GeneratorSettings):
    """The mean image of each class, and noise."""

    kind: Literal["mean"] = "mean"
    generate_defaults: ClassVar[dict[str, Any]] = {"batch_size": 9}
    fit_rounds: int = Field(10, ge=1)
    spread: float = Field(20.0, ge=0)
    start: str = Field("none", description="a file of means to begin with")


@register
class MeanGenerator(Generator[Mean]):
    """Fitted by the run, with a checkpoint after each step."""

    Settings = Mean
    weights = "generator/means.npy"
    checkpoint = "generator/means-so-far.npy"

    def check(self) -> list[str]:
        if self.settings.start != "none" and not Path(self.settings.start).exists():
            raise InputError(f"generator.start: no file {self.settings.start}")
        return ["a mean is no image"]

    def origin(self, trained: str) -> Origin:
        return Origin(model_id=f"mean/{trained[:12]}", model_revision=trained, model_license="", parts={})

    @property
    def fit_steps(self) -> int:
        return self.settings.fit_rounds

    @property
    def fit_batch(self) -> int:
        return 1

    def fit_done(self, folder: RunFolder, part: str = "") -> int:
        if folder.exists(self.weights):
            return self.fit_steps
        return len(np.load(io.BytesIO(folder.read(self.checkpoint)))) if folder.exists(self.checkpoint) else 0

    def fit(self, folder: RunFolder, images: ImageSource, seed: int) -> Iterator[int]:
        if folder.exists(self.weights):
            return
        yield self.fit_done(folder)
        for step in range(self.fit_done(folder), self.fit_steps):
            random = np.random.default_rng([seed, step])
            before = np.load(io.BytesIO(folder.read(self.checkpoint))) if step else np.zeros((0, *self._means))
            rows = [random.choice(np.flatnonzero(images.labels == c)) for c in range(len(self.class_names))]
            self._save(folder, self.checkpoint, np.concatenate([before, images.images()[rows][None]]))
            yield step + 1
        self._save(folder, self.weights, np.load(io.BytesIO(folder.read(self.checkpoint))).mean(axis=0))
        folder.remove(self.checkpoint)

    @property
    def _means(self) -> tuple[int, ...]:
        return (len(self.class_names), *self.shape)

    def _save(self, folder: RunFolder, name: str, values: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.save(buffer, values)
        folder.write(name, buffer.getvalue())

    def sampler(self, folder: RunFolder, parents: Parents | None, device: str) -> Sampler:
        means, spread = np.load(io.BytesIO(folder.read(self.weights))), self.settings.spread

        def sample(batch: Batch) -> Batch:
            images = []
            for label, seed in zip(batch["label"], batch["seed"], strict=True):
                noisy = means[label] + np.random.default_rng(seed).normal(0, spread, means[label].shape)
                images.append(np.clip(np.round(noisy), 0, 255).astype(np.uint8))
            return {**batch, "image": images, "rejected": [""] * len(images)}

        return sample

    def small(self, models: Path) -> dict[str, Any]:
        start = self.settings.start if self.settings.start == "none" else str(models / "means")
        return {**self.settings.model_dump(), "fit_rounds": min(self.fit_steps, 3), "start": start}

    def tiny_models(self) -> dict[str, Any]:
        return {} if self.settings.start == "none" else {"means": lambda place: place.write_bytes(b"")}


TOY: dict[str, Any] = {
    "generator": {"kind": "mean", "fit_rounds": 6},
    "generate.images_per_class": 4,
    "generate.chunk_size": 4,
    "generate.num_actors": 1,
    "data.shots": 4,
}


def job(folder: Path, **changes: Any) -> Run:
    return Run(load_experiment(DIGITS, {**TOY, **changes}), RunFolder(folder), Reporter())


def test_an_experiment_file_takes_it_and_names_what_it_does_not_know() -> None:
    experiment = load_experiment(DIGITS, TOY)
    assert isinstance(experiment.generator, Mean)
    assert experiment.generate.batch_size == 9
    assert experiment.model_dump(mode="json")["generator"] == {
        "kind": "mean", "fit_rounds": 6, "spread": 20.0, "start": "none",
    }  # fmt: skip
    sections = Experiment.model_json_schema()["properties"]["generator"]["oneOf"]
    assert [section["properties"]["kind"]["const"] for section in sections][-1] == "mean"
    for changes, words in (
        ({"generator.fit_round": 5}, r"unknown key generator\.fit_round; did you mean generator\.fit_rounds\?"),
        ({"generator.fit_rounds": 0}, r"generator\.fit_rounds: .* got 0; type --set generator\.fit_rounds=10"),
        ({"generate.noise_variance": 1}, "must be 0 for generator.kind: mean"),
        ({"generator.kind": "median"}, "must be diffusion, diffusers, stable_diffusion, folder or mean"),
    ):
        with pytest.raises(InputError, match=words):
            load_experiment(DIGITS, {**TOY, **changes})


def test_it_is_checked_and_its_dry_run_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"generator\.start: no file nowhere"):
        job(tmp_path / "run", **{"generator.start": "nowhere"})
    run = job(tmp_path / "run")
    assert "a mean is no image" in run.notes
    assert "6 training steps" in run._overview()
    run.check()
    assert not (tmp_path / "run").exists()


def test_it_fits_resumes_and_samples(tmp_path: Path) -> None:
    whole = job(tmp_path / "whole")
    whole.perform("generate")
    assert sorted(json.loads((tmp_path / "whole/generator/digest.json").read_text())) == [
        "model_id", "model_revision", "weights_sha256",
    ]  # fmt: skip

    cut = job(tmp_path / "cut")
    fit = cut.of(Finetune).generator.fit(cut.folder, cut.inputs.splits.generator, 0)
    assert [next(fit) for _ in range(3)] == [0, 1, 2]
    assert cut.of(Finetune).generator.fit_done(cut.folder) == 2
    assert [*cut.of(Finetune).generator.fit(cut.folder, cut.inputs.splits.generator, 0)] == [2, 3, 4, 5, 6]
    assert cut.of(Finetune).generator.fit_done(cut.folder) == 6

    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "whole/synthetic").iterdir()}
    assert len(made) == 10
    again = job(tmp_path / "whole")
    again.perform("generate")  # finds everything complete
    next(iter(made)).unlink()
    (tmp_path / "whole/stages/generate.json").unlink()
    again = job(tmp_path / "whole")
    again.perform("generate")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "whole/synthetic").iterdir()}
    assert set(kept) == set(made)
    assert sum(kept[path] == made[path] for path in made) == 9
    images = again.of(Generate).all
    assert (len(images), images.shape) == (40, (8, 8, 1))
    means = np.load(tmp_path / "whole/generator/means.npy")
    assert np.abs(images.images()[images.labels == 3].mean(axis=0) - means[3]).mean() < 20
    assert len(chunks.finished_chunks(again.folder, again.of(Generate).images)) == 10


def test_its_small_twin_has_the_models_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    experiment = load_experiment(DIGITS, {**TOY, "generator.start": "means"})
    models = tiny_models(experiment)
    assert [path.name for path in models.iterdir()] == ["means"]
    small = shrunk(experiment, models).generator
    assert isinstance(small, Mean)
    assert (small.fit_rounds, small.start) == (3, str(models / "means"))
    done = rs.run(DIGITS, out=tmp_path / "run", overrides=TOY, until="generate", smoke=True)
    assert done["kept"] == done["asked"] == 40


def test_the_others_are_registered_in_the_same_way() -> None:
    assert set(KINDS) >= {"diffusion", "stable_diffusion", "folder", "mean"}
    assert all(kind.Settings.model_fields["kind"].default == name for name, kind in KINDS.items())
