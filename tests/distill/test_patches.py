"""Patchworks: the crops that a teacher knows best, in order, shrunk to their places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ray_synth.distill.patches import patchwork
from ray_synth.errors import InputError


def brightness(x: torch.Tensor) -> torch.Tensor:
    """A teacher of two classes, dark and bright: the middle of the picture decides."""
    middle = x[:, :, 3:5, 3:5].mean((1, 2, 3))
    return torch.stack([-middle, middle], dim=1)


def plain_images(values: list[int], side: int = 8) -> np.ndarray:
    return np.repeat(np.array(values, dtype=np.uint8), side * side * 3).reshape(-1, side, side, 3)


def test_the_images_that_the_teacher_knows_best_stand_in_order() -> None:
    values = [10, 250, 90, 170, 130, 210, 50, 240, 30, 200]
    found = patchwork(plain_images(values), np.ones(10, dtype=np.int64), brightness, 2, seed=0)
    ranked = [1, 7, 5, 9, 3, 4, 2, 6]  # by brightness, all that are needed
    # The first and third are of the first image, and so on: each has crops of all ranks.
    assert found.rows.tolist() == [ranked[::2], ranked[1::2]]
    for image, rows in zip(found.images, found.rows, strict=True):
        corners = [image[:4, :4], image[:4, 4:], image[4:, :4], image[4:, 4:]]
        for corner, row in zip(corners, rows, strict=True):
            assert (corner == values[row]).all()
    dark = patchwork(plain_images(values), np.zeros(10, dtype=np.int64), brightness, 1, seed=0)
    assert dark.rows.tolist() == [[0, 8, 6, 2]]


def test_each_crop_is_its_images_best_and_is_what_the_picture_shows() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 16, 12, 3), dtype=np.uint8)
    seen: list[torch.Tensor] = []

    def teacher(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.stack([x.mean((1, 2, 3)), -x.mean((1, 2, 3))], dim=1)

    labels = np.array([0, 1, 0, 1, 0, 1])
    found = patchwork(images, labels, teacher, 1, crops=4, seed=3)
    shown = torch.cat(seen)
    assert shown.shape == (24, 3, 16, 12)
    middle = shown[:, :, 4:12, 3:9]
    assert shown.abs().sum() == pytest.approx(middle.abs().sum())  # amid zeros
    losses = torch.nn.functional.cross_entropy(
        teacher(shown), torch.as_tensor(labels).repeat_interleave(4), reduction="none"
    ).reshape(6, 4)
    best = losses.min(1).values
    assert found.rows[0].tolist() == best.argsort()[:4].tolist()
    assert found.losses[0] == pytest.approx(best.sort().values[:4].numpy())
    for place, (row, (top, left, side)) in enumerate(zip(found.rows[0], found.boxes[0], strict=True)):
        cut = Image.fromarray(images[row, top : top + side, left : left + side])
        expected = np.asarray(cut.resize((6, 8), Image.Resampling.BILINEAR), dtype=int)
        i, j = divmod(place, 2)
        got = found.images[0, 8 * i : 8 * i + 8, 6 * j : 6 * j + 6].astype(int)
        assert np.abs(got - expected).max() <= 1
        assert 0 <= top <= 16 - side
        assert 0 <= left <= 12 - side


def test_second_crops_come_after_every_image_has_given_one() -> None:
    found = patchwork(plain_images([250, 200, 240]), np.ones(3, dtype=np.int64), brightness, 1, crops=2, seed=0)
    assert found.rows.tolist() == [[0, 2, 1, 0]]


def test_crops_are_a_function_of_seed_and_row() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 9, 9, 1), dtype=np.uint8)
    labels = np.zeros(9, dtype=np.int64)
    mean = lambda x: torch.stack([x.mean((1, 2, 3)), 0 * x.mean((1, 2, 3))], dim=1)  # noqa: E731
    one, again, other = (patchwork(images, labels, mean, 1, factor=2, seed=s) for s in (1, 1, 2))
    assert one.images.tobytes() == again.images.tobytes()
    assert one.images.shape == (1, 9, 9, 1)  # 4 and 5 pixels a side
    assert (one.boxes != other.boxes).any()
    fewer = patchwork(images[:6], labels[:6], mean, 1, factor=1, seed=1)
    all_of_them = patchwork(images, labels, mean, 9, factor=1, crops=5, seed=1)
    row = int(fewer.rows[0, 0])
    assert (all_of_them.boxes[all_of_them.rows[:, 0] == row] == fewer.boxes[0]).all()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"num": 4}, "need 16, and 3 images of 5 crops give 15"),
        ({"factor": 9}, "got 9"),
        ({"factor": 0}, "got 0"),
        ({"images": np.zeros((3, 8, 8, 3))}, "float64"),
        ({"labels": np.zeros(2, dtype=np.int64)}, "2 labels"),
        ({"teacher": lambda x: torch.full((len(x), 2), torch.nan)}, "not finite"),
    ],
)
def test_wrong_input_is_refused(changed: dict[str, object], expected: str) -> None:
    given = {"images": plain_images([1, 2, 3]), "labels": np.ones(3, dtype=np.int64), "teacher": brightness, "num": 1}
    with pytest.raises(InputError, match=expected):
        patchwork(**{**given, **changed}, seed=0)  # type: ignore[arg-type]
