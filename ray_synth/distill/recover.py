"""A teacher and what it should see in, images that make it see that out: by gradient, pixel by pixel.

One step for both methods. WMDD's groups are classes, whose features are to be the points of a barycenter and whose
BatchNorm statistics those of the class (Liu et al., 2025, Eq. 15). SRe2L's one group is the batch, with the statistics
of the whole data set and the cross-entropy of the labels (Yin et al., 2023). What an image becomes follows from the
batch that it is in and from seeds of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ray_synth.config import Recover
from ray_synth.config.distill import BN_WEIGHTS
from ray_synth.distill.squeeze import Seen, Tapped
from ray_synth.training.augment import crop_boxes, resized_crop, uniforms
from ray_synth.training.loop import Loop
from ray_synth.training.recipe import Recipe
from ray_synth.training.team import Team

UNIT = 0.45  # a standard deviation of photographs' pixels in [-1, 1], which Table 6's learning rates are multiples of
JITTER = 7  # of an image's side: 32 of 224 pixels
DRAWS = ("flip", "down", "right", "area", "aspect", "top", "left")
SHAPES = {"wmdd": "squares", "sre2l": "norms"}  # of the BatchNorm loss: squared distances, or distances, a layer


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """What a batch of B = G m images should look like to the teacher: G groups of m, one after the other.

    labels: int64 [B]. means, variances: of each group before all BatchNorm layers, [G,D]. points: features, [B,F];
    None where they are free.
    """

    labels: torch.Tensor
    means: torch.Tensor
    variances: torch.Tensor
    points: torch.Tensor | None = None

    def to(self, device: torch.device) -> Target:
        points = None if self.points is None else self.points.to(device)
        return Target(
            labels=self.labels.to(device),
            means=self.means.to(device),
            variances=self.variances.to(device),
            points=points,
        )


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Of the terms of the loss. norms: the BatchNorm loss of a layer is a distance, not its square."""

    bn: float
    cross_entropy: float
    norms: bool

    @classmethod
    def of(cls, method: str, settings: Recover) -> Weights:
        """What the settings leave open is the method's."""
        bn, entropy = settings.bn_weight, settings.cross_entropy
        return cls(
            bn=BN_WEIGHTS[method] if bn is None else bn,
            cross_entropy=float(method == "sre2l") if entropy is None else entropy,
            norms=method == "sre2l",
        )


def matching_loss(seen: Seen, target: Target, weights: Weights) -> torch.Tensor:
    """Liu et al., 2025, Eq. 15: the squared distances of the features to their points, and λ times the squared
    distances of the groups' means and variances to those that they should have, summed over channels, layers, groups;
    and the mean cross-entropy of each group where it has a weight."""
    groups = len(target.means)
    sizes = [part.shape[1] for part in seen.means]
    means, variances = (torch.cat(parts, dim=1).unflatten(0, (groups, -1)) for parts in (seen.means, seen.variances))
    centres = means.mean(dim=1)
    spreads = variances.mean(dim=1) + means.var(dim=1, correction=0)  # the law of total variance
    apart = [(found - wanted) ** 2 for found, wanted in ((centres, target.means), (spreads, target.variances))]
    if weights.norms:
        layers = [part.sum(dim=1) for each in apart for part in each.split(sizes, dim=1)]
        loss = weights.bn * sum(layer.clamp(min=1e-12).sqrt().sum() for layer in layers)
    else:
        loss = weights.bn * (apart[0].sum() + apart[1].sum())
    if target.points is not None:
        loss = loss + ((seen.features - target.points) ** 2).sum()
    if weights.cross_entropy:
        entropy = F.cross_entropy(seen.logits, target.labels, reduction="sum") * (groups / len(target.labels))
        loss = loss + weights.cross_entropy * entropy
    assert isinstance(loss, torch.Tensor)  # noqa: S101 - a sum of some
    return loss


def view(images: torch.Tensor, seeds: np.ndarray, step: int, settings: Recover, *, together: bool) -> torch.Tensor:
    """Images as a step looks at them: cut, rolled and mirrored, each by its own seed; or all by the first one's.

    images: [B,C,H,W]; seeds: int64 [B]. No pixel is read twice in rolling, so its gradient has one order of adding.
    """
    height, width = images.shape[-2:]
    seeds = np.broadcast_to(seeds[:1], seeds.shape) if together else seeds
    draws = dict(zip(DRAWS, uniforms((seeds + step) % 2**62, len(DRAWS)).T, strict=True))
    if settings.crop is not None:
        images = resized_crop(images, crop_boxes(draws, settings.crop, height, width))
    most = min(height, width) // JITTER if settings.jitter is None else settings.jitter
    if not most and not settings.flip:
        return images
    down, right = (np.floor((2 * most + 1) * draws[name]).astype(np.int64) - most for name in ("down", "right"))
    rows = (np.arange(height) - down[:, None]) % height
    columns = (np.arange(width) - right[:, None]) % width
    flipped = draws["flip"] < settings.flip
    columns[flipped] = columns[flipped, ::-1]
    y, x = (torch.from_numpy(each).to(images.device) for each in (rows, columns))
    rolled = images.gather(2, y[:, None, :, None].expand(images.shape))
    return rolled.gather(3, x[:, None, None, :].expand(images.shape))


class Pixels(nn.Module):
    """Images that are trained: [B,C,H,W] in units of UNIT, from noise of each image's own seed."""

    def __init__(self, seeds: np.ndarray, shape: tuple[int, int, int]):
        """shape: height, width, channels."""
        super().__init__()
        height, width, channels = shape
        noise = [
            torch.randn(channels, height, width, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds
        ]
        self.values = nn.Parameter(torch.stack(noise))
        self.keep_in_range()

    def forward(self) -> torch.Tensor:
        """In [-1, 1]."""
        return self.values * UNIT

    @torch.no_grad()
    def keep_in_range(self) -> None:
        self.values.clamp_(-1 / UNIT, 1 / UNIT)


class Recovery:
    """A batch of images between two steps."""

    def __init__(
        self,
        tapped: Tapped,
        target: Target,
        weights: Weights,
        settings: Recover,
        *,
        seeds: np.ndarray,
        shape: tuple[int, int, int],
        together: bool = False,
    ):
        """seeds: int64 [B]. shape: [H,W,C]. together: one view for the whole batch, as the released code has it."""
        device = next(tapped.model.parameters()).device
        self.tapped, self.target, self.weights, self.settings = tapped, target.to(device), weights, settings
        self.seeds, self.together = seeds, together
        self.pixels = Pixels(seeds, shape).to(device)
        recipe = Recipe(
            updates=settings.iterations,
            learning_rate=settings.learning_rate,
            betas=settings.betas,
        )
        self.loop = Loop(
            self.pixels,
            recipe,
            team=Team(device=device),
            diverged="the loss of recovered images is {loss} at iteration {done}; lower distill.recover.learning_rate",
        )

    def loss(self, step: int) -> torch.Tensor:
        seen = self.tapped(view(self.pixels(), self.seeds, step, self.settings, together=self.together))
        return matching_loss(seen, self.target, self.weights)

    def step(self) -> float:
        """One of the iterations; gives its loss."""
        found = self.loop.update(self.loss)
        self.pixels.keep_in_range()
        return float(found)

    def run(self) -> np.ndarray:
        """All iterations that are left: uint8 [B,H,W,C].

        Raises:
            WorkError: a loss that is not finite.
        """
        for _ in self.loop.run(self.loss, kept_at={self.settings.iterations}):
            self.pixels.keep_in_range()
        return as_bytes(self.pixels().detach())


def as_bytes(images: torch.Tensor) -> np.ndarray:
    """float [B,C,H,W] in [-1, 1] -> uint8 [B,H,W,C]."""
    found: np.ndarray = ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return found


def groups_of(method: str, num_classes: int, images_per_class: int, batch_size: int) -> tuple[int, int]:
    """Images of a class, and classes, that are optimised together.

    WMDD compares statistics within a class, so a batch has as many images of a class as it can. SRe2L compares those of
    all classes together, so it has as many classes as it can.
    """
    if method == "sre2l":
        classes = min(num_classes, batch_size)
        return max(1, min(images_per_class, batch_size // classes)), classes
    images = min(images_per_class, batch_size)
    return images, min(num_classes, max(1, batch_size // images))
