"""The section `evaluate.ood`: further test sets, and corruptions of the test set itself."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from ray_synth.config.data import Columns, Data
from ray_synth.config.section import Section, short
from ray_synth.config.words import HomePath
from ray_synth.errors import did_you_mean

# Of (Hendrycks & Dietterich, 2019); data/corruptions.py makes them.
CORRUPTIONS = ("gaussian_noise", "gaussian_blur", "contrast", "pixelate", "jpeg_compression")
IMAGENET_SETS = ("v2", "sketch", "r", "a")


class OodSet(Section):
    """Labelled images from elsewhere, whose classes are those of the training set, or some of them. The path alone is
    short for a folder."""

    kind: str = Field("folder", description="a format, or a known data set, as data.kind")
    path: HomePath | None = Field(None, description="the file or folder that holds the images")
    columns: Columns = Columns()
    class_list: HomePath | None = Field(None, description="for ImageNet: a file with the synsets to keep, one a line")
    attribute: str | None = Field(None, min_length=1, description="for CelebA, as data.attribute")
    part: Literal["test", "val", "train", "all"] | None = Field(
        None, description="of a source with an official split; default: its test images, where it has any, else all"
    )
    unknown: Literal["refuse", "drop"] = Field(
        "refuse", description="classes that the training set does not have: drop leaves their images out"
    )

    @model_validator(mode="after")
    def _readable(self) -> OodSet:
        try:
            _ = self.data
        except ValidationError as error:
            reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ").split("; type")[0]
            raise ValueError(reason) from None
        return self

    @property
    def data(self) -> Data:
        """The section that reads it."""
        return Data(
            kind=self.kind, path=self.path, columns=self.columns, class_list=self.class_list, attribute=self.attribute
        )


class Ood(Section):
    """Accuracy on other images than those that it was chosen by: sets of another origin, and corrupted test images."""

    sets: dict[str, OodSet] = Field({}, description="by name: a folder of class folders, or a set as `data` reads it")
    imagenet: HomePath | None = Field(
        None,
        description="a folder that holds imagenetv2-matched-frequency-format-val, sketch, imagenet-r and imagenet-a, "
        "or some of them",
    )
    corruptions: bool | Annotated[tuple[str, ...], Field(strict=False)] = Field(
        False, description=f"of the test images, each in five strengths: true, or some of {', '.join(CORRUPTIONS)}"
    )
    images: int = Field(5000, ge=1, description="test images that are corrupted at most, the first of each class")

    @field_validator("sets", mode="before")
    @classmethod
    def _folders(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: {"path": value} if isinstance(value, str) else value for name, value in given.items()}

    @field_validator("sets")
    @classmethod
    def _names(cls, sets: dict[str, OodSet]) -> dict[str, OodSet]:
        for name in sets:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}", str(name)):
                raise ValueError(
                    f"a set's name must be of letters, digits, dots, hyphens and underscores, got {short(name)}"
                )
        return sets

    @field_validator("corruptions")
    @classmethod
    def _known_corruptions(cls, given: bool | tuple[str, ...]) -> bool | tuple[str, ...]:
        for name in given if isinstance(given, tuple) else ():
            if name not in CORRUPTIONS:
                raise ValueError(f"unknown corruption {short(name)}; {did_you_mean(name, CORRUPTIONS)}")
        return tuple(dict.fromkeys(given)) if isinstance(given, tuple) else given

    @model_validator(mode="after")
    def _apart(self) -> Ood:
        twice = [name for name in self.sets if self.imagenet is not None and name in IMAGENET_SETS]
        if twice:
            raise ValueError(f"the set {twice[0]!r} has the name of one below imagenet; give it another name")
        return self

    @property
    def corrupted(self) -> tuple[str, ...]:
        """Names of the corruptions that are asked for."""
        if isinstance(self.corruptions, tuple):
            return self.corruptions
        return CORRUPTIONS if self.corruptions else ()
