"""Distilled images and a teacher in; every view of an epoch, and what the teacher says of it, out.

FKD (Shen & Xing, 2022): a label for each crop, not for each image. Views follow from a seed, the epoch and the image,
so nothing but labels would ever be stored, in half precision; and where the teacher is at hand, not even these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ray_synth.config import Relabel
from ray_synth.data.transforms import to_model_range
from ray_synth.errors import InputError, Spoiled
from ray_synth.runs import RunFolder
from ray_synth.seeding import derive_seed
from ray_synth.training.augment import Augmentation, augment, mix_images
from ray_synth.training.checkpoint import read_tensors, sealed


class View(NamedTuple):
    """A batch as a student is shown it. rows: places in the set; targets: the labels, mixed as the images are, times
    the images' weights, [b,K]."""

    rows: torch.Tensor
    images: torch.Tensor
    targets: torch.Tensor

    @property
    def weights(self) -> torch.Tensor:
        """Of each image. [b]"""
        return self.targets.sum(dim=1)


class Views:
    """The views of a set of images, epoch by epoch.

    images: uint8 [N,H,W,C]; labels: int [N]; weights: float [N], of mean 1. seed: of the whole set, so that all
    students see the same, and labels are made once.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray,
        settings: Relabel,
        *,
        num_classes: int,
        batch_size: int,
        seed: int,
        device: torch.device,
    ):
        self.images = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        targets = F.one_hot(torch.from_numpy(labels), num_classes).float() * torch.from_numpy(weights).float()[:, None]
        self.targets = targets.to(device)
        self.settings, self.seed = settings, seed
        self.changes = Augmentation(**settings.augment.model_dump())
        self.per_epoch = -(-len(images) // batch_size)

    def batch(self, epoch: int, number: int) -> View:
        """Batches of an epoch differ in size by one image at most: none is too small for BatchNorm."""
        order = np.random.default_rng(derive_seed("order", self.seed, epoch)).permutation(len(self.images))
        rows = np.array_split(order, self.per_epoch)[number]
        seeds = (rows.astype(np.int64) + derive_seed("view", self.seed, epoch) % 2**62) % 2**62
        places = torch.from_numpy(rows).to(self.images.device)
        images = augment(to_model_range(self.images[places]), self.changes, seeds)
        mixed = mix_images(
            images,
            self.targets[places],
            mixup=self.settings.mixup,
            cutmix=self.settings.cutmix,
            seed=derive_seed("mix", self.seed, epoch, number),
        )
        return View(places, *mixed)


class Kept(NamedTuple):
    """Logits as they are stored, in half precision. top: [n,K], or the k largest, [n,k], at `places`; then
    `rest`, [n], is what each of the others gets."""

    top: torch.Tensor
    places: torch.Tensor | None = None
    rest: torch.Tensor | None = None

    @classmethod
    def of(cls, logits: torch.Tensor, top_k: int | None) -> Kept:
        """The rest shares the probability that the largest leave, evenly."""
        if top_k is None or top_k >= logits.shape[1]:
            return cls(logits.half())
        top, index = logits.topk(top_k, dim=1)
        others = logits.scatter(1, index, float("-inf"))
        rest = others.logsumexp(dim=1) - float(np.log(logits.shape[1] - top_k))
        return cls(top.half(), index.int(), rest.half())

    def logits(self, num_classes: int) -> torch.Tensor:
        """float32 [n,K]."""
        if self.places is None or self.rest is None:
            return self.top.float()
        whole = self.rest.float()[:, None].repeat(1, num_classes)
        return whole.scatter_(1, self.places.long(), self.top.float())


Labels = Callable[[View, int, int], torch.Tensor]  # of a view, its epoch and its place in it: logits [b,K]


def labels_of(teacher: nn.Module, top_k: int | None) -> Labels:
    """What the teacher says, made when it is asked for: the same numbers that a file would hold."""

    @torch.no_grad()
    def said(view: View, epoch: int, number: int) -> torch.Tensor:
        logits = teacher(view.images).float()
        return Kept.of(logits, top_k).logits(logits.shape[1])

    return said


def store_epoch(folder: RunFolder, name: str, teacher: nn.Module, views: Views, epoch: int, *, told_by: str) -> None:
    """Write an epoch's labels as one file. told_by: digest of the teacher, which the file names."""
    top_k, tensors = views.settings.top_k, dict[str, torch.Tensor]()
    with torch.no_grad():
        for number in range(views.per_epoch):
            kept = Kept.of(teacher(views.batch(epoch, number).images).float(), top_k)
            for part, tensor in kept._asdict().items():
                if tensor is not None:
                    tensors[f"{number}/{part}"] = tensor.cpu().contiguous()
    folder.write(name, sealed(tensors, {"teacher": told_by}))


class StoredLabels:
    """Labels of files, an epoch at a time.

    Raises, when asked:
        InputError: labels of another teacher.
        Spoiled: a file that is not what was written.
    """

    def __init__(self, folder: RunFolder, name: Callable[[int], str], *, told_by: str, num_classes: int):
        self.folder, self.name, self.told_by, self.num_classes = folder, name, told_by, num_classes
        self.epoch, self.tensors = -1, dict[str, torch.Tensor]()

    def __call__(self, view: View, epoch: int, number: int) -> torch.Tensor:
        if epoch != self.epoch:
            self.tensors, metadata = read_tensors(self.folder, self.name(epoch))
            if metadata.get("teacher") != self.told_by:
                raise InputError(
                    f"{self.folder.url}/{self.name(epoch)} holds soft labels of teacher "
                    f"{metadata.get('teacher', '')[:12]!r}, and these images are of teacher {self.told_by[:12]!r}; "
                    "move the file away and run again, which makes it anew"
                )
            self.epoch = epoch
        found = {part: self.tensors.get(f"{number}/{part}") for part in Kept._fields}
        top = found["top"]
        if top is None or len(top) != len(view.rows):
            raise Spoiled(f"{self.folder.url}/{self.name(epoch)} is of other batches", self.name(epoch))
        return Kept(top, found["places"], found["rest"]).logits(self.num_classes).to(view.images.device)
