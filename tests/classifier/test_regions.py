"""Regions of more images than are held: k-means sees a sample by name, and the rest goes by a block at a time."""

from __future__ import annotations

import os
import socket
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ray_synth.classifier import regions
from ray_synth.classifier.experiment_data import ExperimentData
from ray_synth.classifier.mixture import mix, names_of
from ray_synth.classifier.regions import Vectors, regions_of
from ray_synth.classifier.setting import default_setting
from ray_synth.config import Experiment, PartitionSettings
from ray_synth.data.source import BATCH, ImageSource, Rows
from ray_synth.data.splits import Splits
from ray_synth.features.encoders import Encoder
from ray_synth.partition import kmeans_partition, sampled
from ray_synth.training.team import Team

K, AT_ONCE = 12, 200


def of_sample(real: ImageSource, synthetic: ImageSource) -> np.ndarray:
    vectors = Vectors([real, synthetic], "pixels", at_once=AT_ONCE)
    return regions_of(vectors, names_of(real, synthetic), K, iterations=50, seed=3)


def test_all_go_to_the_nearest_centroid_of_the_samples_k_means(splits: Splits) -> None:
    sets = [splits.train, splits.generator]
    pixels = np.concatenate([s.images().reshape(len(s), -1) / np.float32(255) for s in sets])
    names = [*splits.train.keys(), *splits.generator.keys()]
    rows = sampled(names, AT_ONCE, 3)
    centroids = kmeans_partition(pixels[rows], K, iterations=50, seed=3).centroids.astype(np.float64)
    by_hand = ((pixels[:, None] - centroids) ** 2).sum(-1).argmin(1)
    assert len(pixels) > AT_ONCE
    assert np.array_equal(of_sample(*sets), by_hand)
    known = Vectors(sets, "pixels", at_once=AT_ONCE, known=pixels)
    assert np.array_equal(regions_of(known, names, K, iterations=50, seed=3), by_hand)


def test_an_image_is_in_the_same_region_wherever_it_stands(splits: Splits) -> None:
    real, synthetic = splits.train, splits.generator
    order = np.random.default_rng(0).permutation(len(real))
    before, after = of_sample(real, synthetic), of_sample(real.take(order), synthetic)
    assert np.array_equal(before[: len(real)][order], after[: len(real)])
    assert np.array_equal(before[len(real) :], after[len(real) :])


def test_a_mix_looks_at_a_sample_beyond_what_k_means_is_fitted_on(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_synth.partition.WHOLE", AT_ONCE)
    monkeypatch.setattr("ray_synth.partition.SAMPLED", 1)
    settings = PartitionSettings(num_clusters=K, iterations=50)
    data = mix(splits.train, splits.generator, splits.generator.counts, partition=settings, seed=3)
    assert np.array_equal(
        np.concatenate([data.real_regions, data.synthetic_regions]), of_sample(splits.train, splits.generator)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Made(ImageSource):
    """Images that lie nowhere: each is made of its row when it is asked for."""

    rows: np.ndarray
    asked: list[int]

    def images(self, rows: Rows | None = None) -> np.ndarray:
        taken = self.rows if rows is None else self.rows[rows]
        self.asked.append(len(taken))
        turned = np.arange(np.prod(self.shape)) * (1 + taken[:, None] % 97) + taken[:, None]
        return (turned % 256).astype(np.uint8).reshape(len(taken), *self.shape)

    def _taken(self, rows: Rows) -> dict[str, Any]:
        return {"rows": self.rows[rows]}


def made(number: int) -> Made:
    names = np.array([f"made-{row}" for row in range(number)], dtype=object)
    labels = np.zeros(number, dtype=np.int64)
    return Made(rows=np.arange(number), asked=[], labels=labels, class_names=("a",), shape=(32, 32, 3), sources=names)


def test_memory_is_that_of_the_sample_and_a_block() -> None:
    """However many images there are: of all of them a few numbers each are kept, and no vector."""
    peaks = []
    for number in (6_000, 30_000):
        images = made(number)
        vectors = Vectors([images], "pixels", at_once=1_000)
        tracemalloc.start()
        found = regions_of(vectors, images.sources, 5, iterations=5, seed=0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(found) == number
        assert max(images.asked) <= BATCH
    assert peaks[1] - peaks[0] < 24_000 * 100
    assert peaks[1] < 30_000 * 32 * 32 * 3  # a quarter of all vectors


def test_features_of_an_encoder_are_asked_in_the_same_order(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    seven = Encoder(name="seven", function=lambda batch: batch.reshape(len(batch), -1)[:, :7])
    monkeypatch.setattr(regions, "encoder_of", lambda spec: seven)
    sets = [splits.train, splits.validation]
    found = Vectors(sets, "open_clip:any:file").all()
    assert np.array_equal(
        found, np.concatenate([s.images().reshape(len(s), -1)[:, :7] for s in sets]).astype(np.float32)
    )


def test_features_of_a_local_model_are_made_once(
    splits: Splits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import timm

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pth")
    spec = PartitionSettings(features=f"timm:test_resnet:{tmp_path / 'weights.pth'}").features
    once = Vectors([splits.train, splits.validation], spec).all()
    kept = list((tmp_path / "ray_synth" / "features").iterdir())
    monkeypatch.setattr(torch.nn.Module, "__call__", None)  # no pass is made
    assert np.array_equal(Vectors([splits.train, splits.validation], spec).all(), once)
    assert len(kept) == 2  # a block of each set


def test_an_encoders_features_are_shared_by_trainings_up_to_a_number_of_images(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    seven = Encoder(name="seven", function=lambda batch: batch.reshape(len(batch), -1)[:, :7])
    monkeypatch.setattr(regions, "encoder_of", lambda spec: seven)
    experiment = Experiment(name="x", partition=PartitionSettings(num_clusters=K, features="open_clip:ViT-B-32:w"))
    sets = splits.train, splits.generator, splits.validation
    few = ExperimentData.of(experiment, *sets)
    assert few.features is not None
    assert np.array_equal(few.features, Vectors(sets[:2], "any").all())
    monkeypatch.setattr("ray_synth.classifier.experiment_data.SHARED", len(splits.train) + len(splits.generator) - 1)
    many = ExperimentData.of(experiment, *sets)
    assert many.features is None
    setting = default_setting(experiment, 10, 1.0)
    assert np.array_equal(many.at(setting)[0].real_regions, few.at(setting)[0].real_regions)


def _worker(rank: int, port: int, at_once: int, out: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    images = made(3_001)
    vectors, team = Vectors([images], "pixels", at_once=at_once), Team(rank=rank, size=2, device=torch.device("cpu"))
    found = regions_of(vectors, images.sources, 5, iterations=5, seed=0, team=team)
    np.savez(f"{out}/{rank}.npz", regions=found, read=sum(images.asked))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)  # gloo's threads now and then end an interpreter that takes itself apart with SIGABRT


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [500, 3_001])
def test_workers_share_the_reading_and_find_the_same_regions(tmp_path: Path, at_once: int) -> None:
    images = made(3_001)
    alone = regions_of(Vectors([images], "pixels", at_once=at_once), images.sources, 5, iterations=5, seed=0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_worker, (port, at_once, str(tmp_path)), nprocs=2)
    read = []
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz") as found:
            assert np.array_equal(found["regions"], alone)
            read.append(int(found["read"]))
    assert read == ([250 + 1501] * 2 if at_once == 500 else [3_001, 0])
