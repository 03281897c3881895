"""The terms over all data: those of the batch when it is all data, and their gradient right on average."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch

from ray_synth.allocation import synthetic_counts
from ray_synth.classifier import memory_bank
from ray_synth.classifier.losses import region_terms
from ray_synth.classifier.memory_bank import MemoryBank
from ray_synth.classifier.mixture import TrainingData, mix
from ray_synth.classifier.models import build_model
from ray_synth.classifier.train import fit
from ray_synth.config import Classifier, PartitionSettings
from ray_synth.data.splits import Splits
from ray_synth.partition import OnlineKMeans
from ray_synth.seeding import derive_seed


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
    torch.testing.assert_close(torch.stack(terms), torch.stack(expected))  # up to the order of their sums
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


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_parts_of_the_regions_give_the_terms_of_all_pairs_with_one_of_the_batch(
    splits: Splits, variant: Literal["paper", "released"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the definition: every pair in a common region, one by one, its weight from all samples."""
    data = data_of(splits)
    n, m = len(data.real), len(data.synthetic)
    random = torch.Generator().manual_seed(0)
    start = torch.randn(n + m, 10, generator=random)
    rows = torch.cat([torch.arange(7), n + torch.arange(5, 14)])
    found = []
    for at_once in (2**25, 1):  # all regions together, and each by itself
        monkeypatch.setattr(memory_bank, "AT_ONCE", at_once)
        memory = MemoryBank(data, start.clone(), variant=variant, seed=0)
        still(memory)
        batch = torch.randn(len(rows), 10, generator=torch.Generator().manual_seed(1), requires_grad=True)
        terms = torch.stack(memory.terms(batch, rows, 7))
        terms.sum().backward()
        found.append((terms.detach(), batch.grad))
    torch.testing.assert_close(found[0], found[1])
    outputs, r = start.clone(), memory.regions.tolist()
    outputs[rows] = batch.detach()
    h = outputs.double().softmax(1) if variant == "paper" else outputs.double()
    live, real_in = set(rows.tolist()), np.bincount(r[:n], minlength=15)
    synthetic_in = np.bincount(r[n:], minlength=15)
    g, sums = synthetic_in[real_in > 0].sum(), [0.0, 0.0]
    pairs = [(real_in * synthetic_in).sum(), (synthetic_in * (synthetic_in - 1) / 2)[real_in > 0].sum()]
    for i in range(n + m):
        for j in range(max(i + 1, n), n + m):
            if r[i] != r[j] or not real_in[r[i]] or not live & {i, j}:
                continue
            term, squared = int(i >= n), float(((h[i] - h[j]) ** 2).sum())
            weight = (2 / (g * synthetic_in[r[i]])) if term else 1 / (g * real_in[r[i]])
            sums[term] += weight * squared**0.5 if variant == "paper" else squared / 10 / pairs[term]
    assert found[0][0].tolist() == pytest.approx(sums, rel=1e-5)


def test_halves_give_the_training_of_whole_numbers(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered in half precision, as of large sets, is off by 2^-11 of a logit; forty updates carry it on."""
    data, settings = data_of(splits), Classifier(algorithm="lightweight", updates=40, evaluations=2, batch_size=32)
    trained, terms, plain = [], [], MemoryBank.terms

    def kept(self: MemoryBank, *given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        found = plain(self, *given)
        terms.append(torch.stack(found).detach())
        return found

    monkeypatch.setattr(MemoryBank, "terms", kept)
    for most in (2**28, 0):
        monkeypatch.setattr(memory_bank, "EXACT", most)
        fitted = fit(data, splits.validation, settings, seed=1)
        trained.append(torch.cat([p.detach().flatten() for p in fitted.model.parameters()]))
    exact, half = torch.stack(terms).split(settings.updates)
    assert 0 < (exact - half).abs().max() < 1e-2 * exact.abs().max()
    whole, other = trained
    moved = (whole - initial(splits, settings)).norm()
    assert 0 < (whole - other).norm() < 0.1 * moved


def initial(splits: Splits, settings: Classifier) -> torch.Tensor:
    model = build_model(settings, splits.train.shape, splits.train.class_names, seed=derive_seed("weights", 1))
    return torch.cat([p.detach().flatten() for p in model.parameters()])


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
