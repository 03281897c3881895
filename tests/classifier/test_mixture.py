"""Which image lies in which region: by key, whatever the order of reading, and the same labels in every pass."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from ray_synth.allocation import synthetic_counts
from ray_synth.classifier.mixture import TrainingData, mix, region_rows
from ray_synth.classifier.regions import Vectors
from ray_synth.classifier.sides import Side
from ray_synth.config import Augment, PartitionSettings
from ray_synth.data.source import ImageSource
from ray_synth.data.splits import Splits
from ray_synth.training.team import Team


def mixed(real: ImageSource, synthetic: ImageSource, clusters: int = 20, **how: Any) -> TrainingData:
    counts = synthetic_counts(real.counts, 2, "fill")
    return mix(real, synthetic, counts, partition=PartitionSettings(num_clusters=clusters), seed=0, **how)


def test_every_image_lies_in_the_region_of_its_own_pixels(splits: Splits) -> None:
    """Two folders in different orders: a region that belongs to a position would go to another image."""
    rng = np.random.default_rng(0)
    shuffled = splits.train.take(rng.permutation(len(splits.train)))
    data = mixed(shuffled, splits.generator)
    regions = np.concatenate([data.real_regions, data.synthetic_regions])
    features = Vectors([data.real, data.synthetic], "pixels").all()
    centroids = np.stack([features[regions == i].mean(axis=0) for i in range(data.num_regions)])
    nearest = ((features[:, None] - centroids[None]) ** 2).sum(-1).argmin(1)
    assert (nearest == regions).mean() > 0.99
    rows = pq.read_table(io.BytesIO(region_rows(data))).to_pylist()
    assert [row["region"] for row in rows] == regions.tolist()
    assert [row["key"] for row in rows[: len(data.real)]] == shuffled.keys()
    assert {row["source"] for row in rows[: len(data.real)]} == {"real"}
    assert {row["source"] for row in rows[len(data.real) :]} == {"synthetic"}


def test_labels_follow_their_images_through_every_pass(splits: Splits) -> None:
    images = splits.train.take(np.arange(30))
    side = Side(images, np.arange(30), 8, updates=20, seed=0, device=torch.device("cpu"))
    truth = {image.tobytes(): label for image, label in zip(images.images(), images.labels, strict=True)}
    for step in range(20):  # more than five passes
        batch = side.batch(step, Team(), Augment())
        pixels = ((batch.images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        for image, label, region, row in zip(pixels, batch.labels, batch.regions, batch.rows, strict=True):
            assert truth[image.tobytes()] == int(label) == images.labels[int(row)]
            assert int(region) == int(row)


def test_features_that_are_known_already_are_taken_by_row(splits: Splits) -> None:
    known = Vectors([splits.train, splits.generator], "pixels").all()
    asked, given = mixed(splits.train, splits.generator), mixed(splits.train, splits.generator, features=known)
    assert np.array_equal(asked.synthetic_regions, given.synthetic_regions)
    online = mixed(splits.train, splits.generator, features=known, online=True)
    assert online.features is not None
    assert np.array_equal(online.features, Vectors([online.real, online.synthetic], "pixels").all())


def test_more_clusters_than_images_are_as_many_as_images(splits: Splits) -> None:
    data = mixed(splits.train.take(np.arange(3)), splits.generator, clusters=1000)
    assert data.num_regions == len(data.real) + len(data.synthetic)
