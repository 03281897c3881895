"""The `data` section: where real images come from, and how they are split."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from ray_synth.allocation import Allocation
from ray_synth.catalog import CATALOG
from ray_synth.config.section import Section, short
from ray_synth.config.words import HomePath

FORMATS = ("digits", "folder", "npz", "cifar10", "cifar100", "parquet", "webdataset", "huggingface")


COLUMNED = ("parquet", "huggingface", "npz", "webdataset")


class Columns(Section):
    """What a file calls its images, labels, class names and splits, where it is not `image`, `label`, ...

    Columns of parquet and Hugging Face, arrays of npz, keys in the json of a WebDataset sample.
    """

    image: str | None = Field(None, min_length=1, description="such as img, or arr_0 of an npz")
    label: str | None = Field(None, min_length=1, description="such as fine_label, or arr_1 of an npz")
    class_name: str | None = Field(None, min_length=1)
    split: str | None = Field(None, min_length=1)


class Data(Section):
    """Where real images come from, and how they are split (four disjoint sets; the rest is the few-shot pool).

    Where the source has an official split, test is its test set, validation its validation set (else a fraction of
    train), and the fractions count train images.
    """

    kind: str = Field("digits", description="a format, or a known data set: " + ", ".join((*FORMATS, *CATALOG)))
    path: HomePath | None = Field(
        None, description="the file or folder that holds the images, as docs/guide/data.md says"
    )
    columns: Columns = Columns()
    class_list: HomePath | None = Field(None, description="for ImageNet: a file with the synsets to keep, one a line")
    attribute: str | None = Field(
        None, min_length=1, description="for CelebA: whose two values are the classes, such as Heavy_Makeup"
    )
    image_size: int | None = Field(None, ge=1, le=1024, description="resize to this many pixels a side")
    fit: Literal["stretch", "crop"] = Field(
        "stretch", description="crop: keep proportions, and the middle of the image"
    )
    shots: int | None = Field(10, ge=1, description="real training images per class; null takes the whole pool")
    use_real: bool = Field(True, description="false: train on synthetic images alone; the ratio still counts real ones")
    allocation: Allocation = Field(
        "fill",
        description="which class gets how many synthetic images: fill brings classes towards equal totals, the rarest "
        "first; equal; proportional to its real ones",
    )
    selection: Literal["random", "covariance"] = Field(
        "random",
        description="which of a class's synthetic images come first: as they were made, or those that together vary as "
        "the class's real ones do, of a pool of generate.images_per_class",
    )
    generator_split: Literal["disjoint", "shared"] = "disjoint"
    generator_fraction: float = Field(0.33, gt=0, lt=1)
    validation_fraction: float = Field(0.25, gt=0, lt=1)
    test_fraction: float = Field(0.27, gt=0, lt=1)
    max_generator: int | None = Field(None, ge=1, description="images per class at most in the generator's set")
    max_validation: int | None = Field(None, ge=1, description="images per class at most in the validation set")
    max_test: int | None = Field(None, ge=1, description="images per class at most in the test set")
    on_leak: Literal["refuse", "drop"] = Field(
        "refuse", description="of one image in two sets: drop takes it from the training side, never from test"
    )

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        known = (*FORMATS, *CATALOG)
        if kind not in known:
            close = difflib.get_close_matches(kind, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else "type --set data.kind=folder"
            raise ValueError(f"must be one of {', '.join(known)}, got {short(kind)}; {hint}")
        return kind

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        if self.kind != "digits" and self.path is None:
            raise ValueError(f"path is missing: kind: {self.kind} needs it; type --set data.path=FOLDER")
        if self.kind == "digits" and self.path is not None:
            raise ValueError(
                f"path must be empty for kind: digits, got {self.path!r}; "
                "type --set data.path=null, or --set data.kind=folder to read images from it"
            )
        if self.path is not None and "://" in self.path:
            raise ValueError(
                f"path must be a file or folder, got {self.path!r}; copy it to the machine that reads it (a cluster's "
                "head: ray rsync-up cluster.yaml FOLDER/ /home/ray/data/), and type --set data.path=FOLDER"
            )
        if self.columns != Columns() and self.kind not in COLUMNED:
            raise ValueError(f"columns must be empty for kind: {self.kind}; they are for {', '.join(COLUMNED)}")
        if self.columns.image is not None and self.kind == "webdataset":
            raise ValueError("columns.image must be empty for kind: webdataset, whose images are members of the shard")
        if self.class_list is not None and (self.kind not in CATALOG or CATALOG[self.kind].layout != "synsets"):
            raise ValueError(f"class_list must be empty for kind: {self.kind}; it picks classes of ImageNet")
        if self.attribute is not None and (self.kind not in CATALOG or not CATALOG[self.kind].attribute):
            raise ValueError(f"attribute must be empty for kind: {self.kind}; it picks one of CelebA's")
        self._check_fractions()
        return self

    def _check_fractions(self) -> None:
        """A shared generator has no set of its own: its fraction is not used, and a cap would do nothing."""
        shared = self.generator_split == "shared"
        if shared and self.max_generator is not None:
            raise ValueError(
                f"max_generator must be empty for generator_split: shared, got {self.max_generator}; the generator "
                "sees the training images; type --set data.generator_split=disjoint to give it a set of its own"
            )
        used = [name for name in ("generator", "validation", "test") if not (shared and name == "generator")]
        total = sum(getattr(self, f"{name}_fraction") for name in used)
        if total >= 1:
            raise ValueError(
                f"{' + '.join(f'{name}_fraction' for name in used)} must be < 1 to leave images to train on, "
                f"got {total:.3g}; type --set data.{used[0]}_fraction={0.25 if shared else 0.33}"
            )

    @property
    def root(self) -> Path:
        """Where the images lie, in full; of every kind but digits."""
        return Path(self.path or "").absolute()

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width that every image is brought to, where the file says."""
        return None if self.image_size is None else (self.image_size, self.image_size)

    @property
    def crop(self) -> bool:
        """Whether images of other proportions, real and synthetic, lose what sticks out."""
        return self.fit == "crop"
