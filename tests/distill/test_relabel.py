"""Views follow from seeds, and labels are those of the teacher, of this one alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ray_synth.classifier.predict import accuracy_of
from ray_synth.config import Classifier, PostTrain, Relabel
from ray_synth.data.images import ImageSet
from ray_synth.distill.posttrain import hard_loss, soft_loss, train_student
from ray_synth.distill.relabel import Kept, StoredLabels, Views, labels_of, store_epoch
from ray_synth.errors import InputError
from ray_synth.runs import RunFolder
from ray_synth.training.checkpoint import FolderCheckpoints

from .test_squeeze import teacher

CPU = torch.device("cpu")


def views(digits: ImageSet, number: int = 21, weights: np.ndarray | None = None, **changes: object) -> Views:
    settings = Relabel.model_validate({"augment": {"flip": 0.5, "resized_crop": [0.5, 1.0]}, **changes})
    return Views(
        digits.images()[:number],
        digits.labels[:number] % 2,
        np.ones(number) if weights is None else weights,
        settings,
        num_classes=2,
        batch_size=8,
        seed=5,
        device=CPU,
    )


def test_an_epoch_shows_each_image_once_and_another_one_anew(digits: ImageSet) -> None:
    made = views(digits)
    rows = torch.cat([made.batch(0, number).rows for number in range(made.per_epoch)])
    assert sorted(rows.tolist()) == list(range(21))
    assert [len(made.batch(0, number).rows) for number in range(3)] == [7, 7, 7]
    again = views(digits)
    assert torch.equal(made.batch(4, 1).images, again.batch(4, 1).images)
    assert not torch.equal(made.batch(4, 1).images, made.batch(5, 1).images)


def test_labels_are_mixed_as_images_are_and_weigh_what_the_images_do(digits: ImageSet) -> None:
    weights = np.linspace(0.1, 1.9, 21)
    plain = views(digits, weights=weights, cutmix=0.0).batch(0, 0)
    np.testing.assert_allclose(plain.weights, weights[plain.rows], rtol=1e-6)
    mixed = views(digits, weights=weights, cutmix=0.0, mixup=1.0)
    total = torch.cat([mixed.batch(0, number).weights for number in range(3)])
    assert float(total.sum()) == pytest.approx(weights.sum(), rel=1e-5)


def test_half_precision_and_the_largest_logits() -> None:
    logits = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)) * 3
    assert torch.equal(Kept.of(logits, None).logits(10), logits.half().float())
    kept = Kept.of(logits, 3)
    assert kept.top.shape == (6, 3)
    told = kept.logits(10).softmax(1)
    whole = logits.softmax(1)
    places = logits.topk(3).indices
    np.testing.assert_allclose(told.gather(1, places), whole.gather(1, places), rtol=4e-3)
    rest = told.scatter(1, places, 0.0)
    np.testing.assert_allclose(rest.sum(1), whole.scatter(1, places, 0.0).sum(1), atol=2e-3)
    assert all(len(set(row[row > 0].tolist())) == 1 for row in rest)  # evenly


@pytest.mark.parametrize("top_k", [None, 1])
def test_stored_labels_are_those_that_are_made_when_used(digits: ImageSet, tmp_path: Path, top_k: int | None) -> None:
    model, made, folder = teacher(), views(digits, top_k=top_k), RunFolder(tmp_path)
    for epoch in (0, 1):
        store_epoch(folder, f"labels/{epoch}", model, made, epoch, told_by="this one")
    stored = StoredLabels(folder, lambda epoch: f"labels/{epoch}", told_by="this one", num_classes=2)
    live = labels_of(model, top_k)
    for epoch, number in ((0, 0), (0, 2), (1, 1)):
        view = made.batch(epoch, number)
        assert torch.equal(stored(view, epoch, number), live(view, epoch, number))


def test_labels_of_another_teacher_are_refused(digits: ImageSet, tmp_path: Path) -> None:
    made, folder = views(digits), RunFolder(tmp_path)
    store_epoch(folder, "labels/0", teacher(), made, 0, told_by="one")
    stored = StoredLabels(folder, lambda epoch: f"labels/{epoch}", told_by="other", num_classes=2)
    with pytest.raises(InputError, match="holds soft labels of teacher 'one', and these images are of teacher 'other'"):
        stored(made.batch(0, 0), 0, 0)


def test_losses_are_those_of_torch_where_nothing_is_weighted() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, said = torch.randn(5, 4, generator=rng), torch.randn(5, 4, generator=rng)
    labels = torch.tensor([0, 3, 1, 1, 2])
    hard = hard_loss(logits, torch.nn.functional.one_hot(labels, 4).float())
    assert float(hard) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-6)
    expected = torch.nn.functional.kl_div((logits / 3).log_softmax(1), (said / 3).softmax(1), reduction="batchmean")
    assert float(soft_loss(logits, said, torch.ones(5), 3.0)) == pytest.approx(float(expected), rel=1e-5)
    one = soft_loss(logits, said, torch.tensor([5.0, 0, 0, 0, 0]), 3.0)
    assert float(one) == pytest.approx(float(soft_loss(logits[:1], said[:1], torch.ones(1), 3.0)), rel=1e-5)


STUDENT = Classifier(model="small_cnn", lambda_1=0.0, lambda_2=0.0)


def test_a_student_learns_and_ends_the_same_after_a_kill(digits: ImageSet, tmp_path: Path) -> None:
    made = views(digits, number=200, cutmix=0.0, augment={})
    settings = PostTrain(models=("small_cnn",), epochs=6, batch_size=8)
    options = {"shape": (8, 8, 1), "class_names": ("even", "odd"), "seed": 1}
    whole = train_student(made, STUDENT, settings, **options)  # type: ignore[arg-type]
    held = ImageSet(pixels=digits.images()[300:500], labels=digits.labels[300:500] % 2, class_names=("even", "odd"))
    assert accuracy_of(whole, held) > 0.8

    class Dies(FolderCheckpoints):
        saves = 0

        def save(self, data: bytes) -> None:
            super().save(data)
            self.saves += 1
            if self.saves == 3:
                raise KeyboardInterrupt

    folder = RunFolder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train_student(made, STUDENT, settings, **options, checkpoints=Dies(folder, "c"))  # type: ignore[arg-type]
    rest = train_student(made, STUDENT, settings, **options, checkpoints=FolderCheckpoints(folder, "c"))  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))
