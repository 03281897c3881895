"""The terms over all data: those of the batch when it is all data, and their gradient right on average."""

from __future__ import annotations

import numpy as np
import torch

from ray_synth.allocation import synthetic_counts
from ray_synth.classifier.losses import region_terms
from ray_synth.classifier.memory_bank import MemoryBank
from ray_synth.classifier.mixture import TrainingData, mix
from ray_synth.config import PartitionSettings
from ray_synth.data.splits import Splits
from ray_synth.partition import OnlineKMeans


def data_of(splits: Splits) -> TrainingData:
    return mix(
        splits.train,
        splits.generator,
        synthetic_counts(splits.train.counts, 0.5, "fill"),
        partition=PartitionSettings(num_clusters=15),
        seed=0,
        online=True,
    )


def still(memory: MemoryBank) -> None:
    """Regions that do not move, so that one step can be compared with another."""
    memory.kmeans.counts += 10**9


def test_a_batch_of_all_data_gives_the_terms_of_all_data(splits: Splits) -> None:
    data = data_of(splits)
    n, m = len(data.real), len(data.synthetic)
    memory = MemoryBank(data, torch.zeros(n + m, 10), variant="paper", seed=0)
    still(memory)
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(n + m, 10, generator=random, requires_grad=True)
    terms = memory.terms(logits, torch.arange(n + m), n)
    sum(terms).backward()
    ours, logits.grad = logits.grad, None
    expected = region_terms(logits[:n], logits[n:], memory.regions[:n], memory.regions[n:])
    sum(expected).backward()
    assert [a.item() for a in terms] == [b.item() for b in expected]
    torch.testing.assert_close(ours, logits.grad)


def test_the_gradient_of_small_batches_is_right_on_average(splits: Splits) -> None:
    data = data_of(splits)
    n, m = len(data.real), len(data.synthetic)
    random = torch.Generator().manual_seed(0)
    start = torch.randn(n + m, 10, generator=random)
    whole = start.clone().requires_grad_()
    memory = MemoryBank(data, start, variant="paper", seed=0)
    still(memory)
    sum(region_terms(whole[:n], whole[n:], memory.regions[:n], memory.regions[n:])).backward()
    found = torch.zeros_like(start)
    parts = 10
    for part in range(parts):  # every sample once, in batches of a tenth of each side
        rows = torch.cat([torch.arange(n)[part::parts], n + torch.arange(m)[part::parts]])
        logits = start[rows].clone().requires_grad_()
        sum(memory.terms(logits, rows, int((rows < n).sum()))).backward()
        found[rows] += logits.grad / parts
    torch.testing.assert_close(found, whole.grad, atol=1e-6, rtol=1e-4)


def test_only_synthetic_samples_move_the_centroids_and_real_ones_follow(splits: Splits) -> None:
    data = data_of(splits)
    n, m = len(data.real), len(data.synthetic)
    memory = MemoryBank(data, torch.zeros(n + m, 10), variant="paper", seed=0)
    by_hand = OnlineKMeans(memory.kmeans.centroids)
    rows = torch.cat([torch.arange(20), n + torch.arange(30)])
    memory.terms(torch.zeros(50, 10), rows, 20)
    real = by_hand.assign(data.features[:20])
    synthetic = by_hand.update(data.features[n : n + 30])
    assert (memory.regions[rows].numpy() == np.concatenate([real, synthetic])).all()
    assert np.array_equal(memory.kmeans.centroids, by_hand.centroids)
    assert memory.kmeans.counts.sum() == 30
