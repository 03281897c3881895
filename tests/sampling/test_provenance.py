"""An image that was generated says so in itself, and is the same image."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from ray_synth.sampling.chunks import encoded
from ray_synth.sampling.provenance import LONGEST, SOURCE_TYPE, marked, packet

IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"


def said(image: bytes) -> dict[str, str]:
    """The properties of a file's XMP, as Pillow finds it and an XML parser reads it."""
    opened = Image.open(io.BytesIO(image))
    opened.load()
    xmp = opened.info["xmp"] if "xmp" in opened.info else opened.info["XML:com.adobe.xmp"].encode()
    root = ElementTree.fromstring(xmp)  # noqa: S314  # our own
    (found,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    return dict(found.attrib)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("format", "quality"), [("png", 95), ("jpeg", 90), ("webp", 100), ("webp", 80)])
@pytest.mark.parametrize("shape", [(33, 20), (1, 1)])
def test_a_file_keeps_its_pixels_and_says_how_they_came(
    format: str, quality: int, channels: int, shape: tuple[int, int]
) -> None:
    if format == "jpeg" and channels == 4:
        pytest.skip("JPEG has no alpha")
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, channels)).astype(np.uint8)
    before = encoded(pixels, format, quality)
    xmp = packet(key="k-1", model='sd "15" <&>', revision="r", prompt="ein Hündchen\x00 & 'mehr'", negative_prompt="n")
    after = marked(before, xmp)
    found = said(after)
    assert found[IPTC + "DigitalSourceType"] == SOURCE_TYPE
    assert found[IPTC + "AISystemUsed"] == 'sd "15" <&>'
    assert found[IPTC + "AISystemVersionUsed"] == "r"
    assert found[IPTC + "AIPromptInformation"] == "ein Hündchen\ufffd & 'mehr' (without: n)"
    assert found["{http://purl.org/dc/elements/1.1/}identifier"] == "k-1"
    ours, theirs = Image.open(io.BytesIO(after)), Image.open(io.BytesIO(before))
    assert (ours.format, ours.mode, ours.size) == (theirs.format, theirs.mode, theirs.size)
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    assert len(after) - len(before) < len(xmp) + 80


def test_a_webp_file_of_the_extended_format_stays_one() -> None:
    pixels, buffer = np.random.default_rng(1).integers(0, 256, (8, 9, 3)).astype(np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="webp", lossless=True, exif=Image.Exif().tobytes() + b"x" * 7)
    assert buffer.getvalue()[12:16] == b"VP8X"
    after = marked(buffer.getvalue(), packet(key="k"))
    assert said(after)[IPTC + "DigitalSourceType"] == SOURCE_TYPE
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(after))), pixels)


def test_an_endless_prompt_is_cut_where_a_jpeg_could_not_hold_it() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    after = marked(encoded(pixels, "jpeg", 90), packet(key="k", prompt="&" * 100_000))
    assert len(said(after)[IPTC + "AIPromptInformation"]) == LONGEST


def test_what_is_no_such_file_is_refused() -> None:
    with pytest.raises(ValueError, match="PNG, JPEG and WebP"):
        marked(b"GIF89a...", packet(key="k"))
