"""The shape of images in, what `features: auto` means for them out: a pretrained network, or the built-in families."""

from __future__ import annotations

from ray_synth.features.encoders import Encoder, encoder_of
from ray_synth.features.families import MAX_SIDE
from ray_synth.features.packaged import PACKAGES

MODEL = "tf_efficientnet_lite0"
LARGEST_SMALL = 64  # pixels of the shorter side
THUMBNAILS = f"thumbnails of at most {MAX_SIDE} pixels a side"


def are_photographs(shape: tuple[int, int, int]) -> bool:
    """Whether images [H,W,C] are taken for photographs: in colour, and more than 64 pixels on the shorter side.

    The built-in families look at thumbnails of at most 16 pixels a side. Of an image of 64 pixels these keep the
    layout, and it is small images that they were judged on (RatioBench); of a larger one they lose the objects. Images
    of one channel (scans, glyphs) are not what ImageNet's weights have seen.
    """
    return min(shape[:2]) > LARGEST_SMALL and shape[2] == 3


def automatic_word(shape: tuple[int, int, int]) -> str | None:
    """What `auto` stands for where it is no built-in family: photographs, and the package is installed."""
    return f"timm:{MODEL}" if are_photographs(shape) and PACKAGES[MODEL].path() is not None else None


def word_at_hand(word: str, shape: tuple[int, int, int]) -> str:
    """`word`; for pixels of photographs [H,W,C] the packaged network, where it is installed."""
    return (automatic_word(shape) if word == "pixels" else None) or word


def automatic_encoder(shape: tuple[int, int, int], *, device: str | None = None) -> tuple[Encoder | None, str]:
    """The encoder of `features: auto` for images [H,W,C], or None for the built-in families; and what images are seen
    through, in words.

    A pretrained network for photographs, where the package with its weights is installed.

    Raises:
        InputError: the package is installed and its file is another one.
    """
    word = automatic_word(shape)
    if word is not None:
        encoder = encoder_of(word, device=device)
        return encoder, encoder.name
    missing = f", which say little of photographs; for a pretrained network {PACKAGES[MODEL].cure}"
    return None, THUMBNAILS + (missing if are_photographs(shape) else "")
