"""What a generator is to the rest of the house: one class a kind, looked up by the `kind` of its settings.

A kind is one file and one `register`: settings for the experiment file, and a class with what follows. Defaults are
those of a generator that is sampled as it is, from labels and seeds alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np

from ray_synth.config import GENERATORS, Generate, GeneratorSettings, said, with_absolute_paths
from ray_synth.data.depth import Depth
from ray_synth.data.leaks import Fingerprints
from ray_synth.data.source import ImageSource
from ray_synth.hardware.gpus import Card
from ray_synth.runs import RunFolder

if TYPE_CHECKING:
    from ray_synth.training.team import Team

# Columns, one value an image: key, label, class_name, index, seed, prompt, negative_prompt, parent (row of the real
# image behind it, or None), parent_key, and of several generators side by side generator (0 for the first); a sampler
# adds image (uint8 [H,W,C] each) and rejected (a reason, or empty).
Batch = dict[str, list[Any]]
Sampler = Callable[[Batch], Batch]
Fitter = Callable[[str], Iterator[int]]
Describer = Callable[[Sequence[np.ndarray]], list[Any]]  # uint8 [H,W,3] each -> text or vector each

DEFAULT_BATCH = 80  # of a small model


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where images come from, for every row; `parts` is what else of files their pixels depend on.

    each: of the generators side by side, where there are several.
    """

    model_id: str
    model_revision: str
    model_license: str
    parts: dict[str, str]
    each: tuple[Origin, ...] = ()


class FitMemory(ABC):
    """What the fit of one part takes of a GPU's memory. batch: images of a step."""

    batch: int

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, int]:
        """Bytes of what is held at once, by what it is."""

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())

    @abstractmethod
    def smaller(self, room: int) -> Sequence[tuple[Mapping[str, Any], int]]:
        """Changes of settings, by their keys, with each of which it takes no more than so many bytes, and how many it
        takes then; the best first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Parents:
    """The real images that synthetic ones come from or are compared with, ordered by key within a class.

    source: the images; keys: [N]; captions: [N], where prompts hold them; embeddings: of the classes
    [C,d] (visual guidance, variant paper) or of the images [N,d] (released).
    """

    source: ImageSource
    keys: Sequence[str]
    captions: Sequence[str] | None = None
    embeddings: np.ndarray | None = None

    @classmethod
    def of(cls, real: ImageSource) -> Parents:
        """In an order that does not depend on the order of reading."""
        keys = np.asarray(real.keys())
        order = np.lexsort((keys, real.labels))
        return cls(source=real.take(order), keys=keys[order].tolist())

    @property
    def labels(self) -> np.ndarray:
        return self.source.labels

    def row_of(self, label: int, index: int) -> int:
        """The parent of a class's image `index`: its real images in turn."""
        first, after = np.searchsorted(self.labels, [label, label + 1])
        return int(first + index % (after - first))


class Description(ABC):
    """What a pretrained model says of every real image, made before sampling. Goes to workers, so it is plain data."""

    name: ClassVar[str]  # of its files
    part: ClassVar[str]  # the model's name in `Origin.parts`
    settings: Any  # what its values depend on, beside the model's revision and the images

    @abstractmethod
    def describer(self, device: str) -> Describer:
        """The model, loaded."""

    @abstractmethod
    def added(self, parents: Parents, values: list[Any]) -> Parents:
        """Parents that hold the values, one for each."""


S = TypeVar("S", bound=GeneratorSettings)


class Generator(ABC, Generic[S]):
    """A generator of images of the classes of an experiment. Goes to workers, so it loads nothing before `sampler`."""

    Settings: ClassVar[type[GeneratorSettings]]
    weights: ClassVar[str] = ""  # the file of the run folder that a fit ends with, where there is anything to fit
    slow_on_cpu: ClassVar[bool] = False  # so much that the run says beforehand how long it will take

    def __init__(
        self,
        settings: S,
        generate: Generate,
        *,
        class_names: Sequence[str],
        shape: tuple[int, int, int],
        depth: Depth | None = None,
    ):
        """shape, depth: of the real images, [H,W,C] and the scale of those with more than 8 bits a channel."""
        self.settings, self.generate = settings, generate
        self.class_names, self.shape, self.depth = tuple(class_names), shape, depth

    def with_steps(self, steps: int) -> Generator[S]:
        """The same with so many inference steps, ready at once: to be timed."""
        return self._changed(self.settings, self.generate.model_copy(update={"num_inference_steps": steps}))

    def on_workers(self) -> Generator[S]:
        """The same for workers, whose current folder is another one."""
        return self._changed(with_absolute_paths(self.settings), with_absolute_paths(self.generate))

    def _changed(self, settings: S, generate: Generate) -> Generator[S]:
        return type(self)(settings, generate, class_names=self.class_names, shape=self.shape, depth=self.depth)

    # Before anything starts.

    def check(self) -> list[str]:
        """Find whatever is wrong. Returns notes.

        Raises:
            InputError: a model, LoRA, folder, scheduler or argument that will not work.
        """
        return []

    @abstractmethod
    def origin(self, trained: str) -> Origin:
        """Name and revision of the model. trained: digest of what `fit` gives: settings, seed and training images."""

    def pixel_settings(self) -> dict[str, Any]:
        """The settings that pixels depend on; files are in `Origin.parts` by content, not by path."""
        return {"kind": self.settings.kind, **said(self.settings)}

    @property
    def uses_real_images(self) -> bool:
        """Whether pixels depend on the real images that sampling looks at."""
        return False

    @property
    def source(self) -> str:
        """The folder of images that exist already; empty where they are made."""
        return ""

    def available(self) -> tuple[int, ...] | None:
        """How many images of each class there are, where they exist already; of several generators one after the
        other."""
        return None

    def fingerprints(self, each: int, *, crop: bool) -> Fingerprints:
        """What the first `each` existing images of every class are compared by, in the shape they are trained on."""
        raise NotImplementedError  # for kinds with a `source`

    # Fitting.

    @property
    def fit_steps(self) -> int:
        """Optimizer steps of a fit; 0 where there is nothing to fit, or several things apart."""
        return 0

    def fit_parts(self, counts: np.ndarray) -> Mapping[str, int]:
        """Optimizer steps of what is fitted apart from each other, by name. counts: real images of each class, [C]."""
        return {"": self.fit_steps} if self.fit_steps else {}

    def fit_file(self, part: str) -> str:
        """The file of the run folder that the fit of a part ends with."""
        return self.weights

    def fit_files(self, part: str) -> Sequence[str]:
        """That change while a part is fitted, the last one when it is done."""
        return (self.fit_file(part),)

    def fit_settings(self) -> dict[str, Any]:
        """The settings that a fit depends on."""
        return self.pixel_settings()

    @property
    def fit_batch(self) -> int:
        """Images of a step, at most."""
        return 0

    @property
    def fit_workers(self) -> int:
        """Of Ray Train, that fit each part together."""
        return 1

    @property
    def fits_parents(self) -> bool:
        """Whether a fit looks at what files and models say of the real images."""
        return False

    def with_fit_steps(self, steps: int) -> Generator[S]:
        """The same with so many of them: to be timed."""
        return self

    def fit_memory(self, counts: np.ndarray, card: Card) -> FitMemory | None:
        """Of a part, on a GPU; None where nobody knows. counts: real images of each class, [C]."""
        return None

    def fit(self, folder: RunFolder, images: ImageSource, seed: int) -> Iterator[int]:
        """Train what the run trains, to `weights`. Yields the number of steps done, after a kill from a checkpoint."""
        yield from ()

    def fitter(self, folder: RunFolder, images: ImageSource, seed: int, parents: Parents | None, team: Team) -> Fitter:
        """What fits one part after the other, each as `fit` does; what they share is loaded once.

        parents: of a fit that looks at them. team: whose member fits here.
        """
        return lambda part: self.fit(folder, images, seed)

    def fit_done(self, folder: RunFolder, part: str = "") -> int:
        """Steps that the fit of a part would not do again."""
        return 0

    def cards(self, origin: Origin, images: str) -> Mapping[str, str]:
        """Files that say what was fitted, by name. images: digest of the real ones."""
        return {}

    # What images are sampled from.

    @property
    def class_words(self) -> tuple[str, ...]:
        """What classes are called in prompts."""
        return self.class_names

    def captions(self, real: ImageSource, root: str | None) -> dict[str, str] | None:
        """Captions that a file holds, by the key of the real image. root: folder that the images' names begin with.

        Raises:
            InputError: an image without one.
        """
        return None

    def descriptions(self) -> Sequence[Description]:
        """What models say of the real images before sampling."""
        return ()

    def described_notes(self, parents: Parents) -> list[str]:
        """Notes on captions, once they are there."""
        return []

    def conditions(self, label: int, indices: Sequence[int], parents: Parents | None) -> Batch:
        """The columns prompt, negative_prompt and parent of a class's images."""
        count = len(indices)
        return {"prompt": [self.class_names[label]] * count, "negative_prompt": [""] * count, "parent": [None] * count}

    # Sampling.

    @abstractmethod
    def sampler(self, folder: RunFolder, parents: Parents | None, device: str) -> Sampler:
        """The generator loaded, from what `fit` left in the run folder where it did; ready to take batches."""

    @property
    def batch_size(self) -> int:
        return self.generate.batch_size or DEFAULT_BATCH

    @property
    def pads_batches(self) -> bool:
        """Whether every batch must have the full size (a compiled model)."""
        return False

    # What it takes.

    @property
    def share_of_steps(self) -> float:
        """How much of generate.num_inference_steps an image takes; 0: none."""
        return 1.0

    @property
    def image_side(self) -> int:
        """Pixels a side of a generated image."""
        return max(self.shape[:2])

    @property
    def denoising_steps(self) -> int:
        """Network evaluations of an image, a guided step counted once."""
        steps = int(self.share_of_steps * self.generate.num_inference_steps)
        return max(1, steps) if self.share_of_steps else 0

    @property
    def guided(self) -> bool:
        """Whether a step evaluates the network twice."""
        return bool(self.share_of_steps) and self.generate.guidance_scale > 1

    def evaluation_flops(self) -> float:
        """Operations of one evaluation of the network on one image, where it is small enough to count them."""
        return 0.0

    # In small.

    def small(self, models: Path) -> dict[str, Any]:
        """Settings of its twin in a smoke run. models: where `tiny_models` lie, or will lie."""
        return self.settings.model_dump()

    def small_sampling(self, most: int) -> dict[str, Any]:
        """What changes in `generate` then. most: images of a batch."""
        if not self.share_of_steps:
            return {}
        # A weak latent prior takes few of the steps, and at least one must be left.
        steps = max(4, math.ceil(1 / self.share_of_steps))
        return {
            "num_inference_steps": min(self.generate.num_inference_steps, steps),
            "batch_size": min(self.generate.batch_size or most, most),
        }

    def tiny_models(self) -> Mapping[str, Callable[[Path], object]]:
        """Names of files or folders that its twin takes, and what makes each."""
        return {}


KINDS: dict[str, type[Generator[Any]]] = {}
G = TypeVar("G", bound=type[Generator[Any]])


def register(kind: G) -> G:
    """Make a kind known, to experiment files too. A decorator; the file must be imported before one is read."""
    name = kind.Settings.model_fields["kind"].default
    KINDS[name], GENERATORS[name] = kind, kind.Settings
    return kind


def generator_of(
    settings: GeneratorSettings,
    generate: Generate,
    *,
    class_names: Sequence[str],
    shape: tuple[int, int, int],
    depth: Depth | None = None,
) -> Generator[Any]:
    """The generator that a section describes. shape, depth: as of the real images."""
    return KINDS[settings.kind](settings, generate, class_names=class_names, shape=shape, depth=depth)
