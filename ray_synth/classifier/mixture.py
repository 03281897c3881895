"""Real and synthetic images in, the training data of a ratio out: exactly as many as asked, each with its region."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_synth.classifier.regions import ALONE, Vectors, regions_of
from ray_synth.config import PartitionSettings
from ray_synth.data.images import first_per_class
from ray_synth.data.packed import near
from ray_synth.data.source import ImageSource
from ray_synth.errors import InputError
from ray_synth.partition import RegionReport, most_fitted, region_report
from ray_synth.training.team import Team


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """Real and synthetic images with the region of each: regions int64 [n] and [m] in [0, num_regions).

    features: float32 [n+m,d], real ones first, where regions are to be found while training (Algorithm 2); until then
    all samples are in one.
    """

    real: ImageSource
    synthetic: ImageSource
    real_regions: np.ndarray
    synthetic_regions: np.ndarray
    num_regions: int = 1
    features: np.ndarray | None = None

    @classmethod
    def of_real(cls, images: ImageSource) -> TrainingData:
        """No synthetic image, and one region."""
        none, regions = np.zeros(0, dtype=np.int64), np.zeros(len(images), dtype=np.int64)
        return cls(real=images, synthetic=images.take(none), real_regions=regions, synthetic_regions=none)

    def report(self) -> RegionReport:
        return region_report(
            self.real_regions,
            self.synthetic_regions,
            self.real.labels,
            self.synthetic.labels,
            num_regions=self.num_regions,
        )


def mix(
    real: ImageSource,
    synthetic: ImageSource,
    counts: np.ndarray,
    *,
    partition: PartitionSettings,
    seed: int,
    online: bool = False,
    features: np.ndarray | None = None,
    team: Team = ALONE,
) -> TrainingData:
    """All real images, the first synthetic ones of each class, and k-means regions over both. Of images that memory
    does not hold those are packed on this machine, and no others.

    Args:
        counts: [C], synthetic images of each class (`ray_synth.allocation`).
        partition: clusters (no more than samples), iterations, and the features that k-means looks at.
        online: leave the regions to be found while training, and keep the features for it.
        features: [n+m,d] of all real and synthetic images, where they are known already.
        team: its workers, who all call this, share the looking.

    Raises:
        InputError: more synthetic images asked for than there are, or no image at all.
    """
    missing = int(np.maximum(counts - synthetic.counts, 0).sum())
    if missing:
        raise InputError(
            f"{missing} more synthetic image(s) than exist are asked for; "
            f"type ray-synth generate EXPERIMENT.yaml --set generate.images_per_class={int(counts.max())}"
        )
    rows = first_per_class(synthetic.labels, counts)
    chosen, kept = near(synthetic, rows), near(real)
    if len(kept) + len(chosen) == 0:
        raise InputError(
            "no image is left to train on: data.use_real is false and no synthetic image is asked for; use a "
            "synthetic_ratio above 0"
        )
    if features is not None:
        features = np.concatenate([features[: len(real)], features[len(real) :][rows]])
    number = len(kept) + len(chosen)
    num_clusters = min(partition.clusters(real.num_classes), number)
    at_once = number if online else most_fitted(num_clusters)
    vectors = Vectors([kept, chosen], partition.features, at_once=at_once, known=features)
    if online:
        regions, features = np.zeros(number, dtype=np.int64), vectors.all()
    else:
        names, iterations = names_of(kept, chosen), partition.iterations
        regions = regions_of(vectors, names, num_clusters, iterations=iterations, seed=seed, team=team)
    return TrainingData(
        real=kept,
        synthetic=chosen,
        real_regions=regions[: len(kept)],
        synthetic_regions=regions[len(kept) :],
        num_regions=num_clusters,
        features=features if online else None,
    )


def names_of(real: ImageSource, synthetic: ImageSource) -> Iterator[str]:
    """The key of each real image, then of each synthetic one, which has it from its chunk."""
    yield from real.keys()
    yield from synthetic.keys() if synthetic.sources is None else synthetic.sources


def region_rows(data: TrainingData) -> bytes:
    """A parquet file with a row per image: key, source (real | synthetic), class_name, region."""
    names = np.asarray(data.real.class_names)
    table = pa.table(
        {
            "key": list(names_of(data.real, data.synthetic)),
            "source": ["real"] * len(data.real) + ["synthetic"] * len(data.synthetic),
            "class_name": names[np.concatenate([data.real.labels, data.synthetic.labels])].tolist(),
            "region": np.concatenate([data.real_regions, data.synthetic_regions]),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
