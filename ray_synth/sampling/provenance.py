"""Encoded images in, the same pixels out with an XMP packet that says how they were made; nothing is encoded anew.

The packet holds IPTC's digital source type, trainedAlgorithmicMedia, and what IPTC Photo Metadata 2025.1 has for
generated images: the AI system, its version and the prompt. A packet lies in an iTXt chunk of PNG, in an APP1 segment
of JPEG, and in a chunk of WebP's extended format (RFC 9649), as XMP part 3 has it.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Mapping
from xml.sax.saxutils import quoteattr

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
STANDARD = "IPTC Photo Metadata 2025.1"
LONGEST = 8_000  # characters of a property: a segment of a JPEG ends at 64 KiB
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_KEYWORD = b"XML:com.adobe.xmp\0\0\0\0\0"  # not compressed, no language, no translation
JPEG_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
WEBP_XMP, WEBP_ALPHA = 0x04, 0x10  # flags of VP8X


def packet(*, key: str, model: str = "", revision: str = "", prompt: str = "", negative_prompt: str = "") -> bytes:
    """XMP of a generated image. key: its stable id. What is empty is left out."""
    asked = prompt + (f" (without: {negative_prompt})" if negative_prompt else "")
    properties: Mapping[str, str] = {
        "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPE,
        "Iptc4xmpExt:AISystemUsed": model,
        "Iptc4xmpExt:AISystemVersionUsed": revision,
        "Iptc4xmpExt:AIPromptInformation": asked,
    }
    said = "".join(f"\n  {name}={quoteattr(_text(value))}" for name, value in properties.items() if value)
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        ' <rdf:Description rdf:about=""\n'
        '  xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"\n'
        '  xmlns:dc="http://purl.org/dc/elements/1.1/"\n'
        f"  dc:identifier={quoteattr(_text(key))}{said}/>\n"
        '</rdf:RDF></x:xmpmeta>\n<?xpacket end="r"?>'
    ).encode()


def marked(image: bytes, xmp: bytes) -> bytes:
    """A PNG, JPEG or WebP file with an XMP packet put in.

    Raises:
        ValueError: a file of another format.
    """
    if image.startswith(PNG_SIGNATURE):
        header = len(PNG_SIGNATURE) + 25  # IHDR is first, and always as long
        return image[:header] + _png_chunk(b"iTXt", PNG_KEYWORD + xmp) + image[header:]
    if image.startswith(b"\xff\xd8"):
        place = 2
        if image[2:4] == b"\xff\xe0":  # JFIF wants to be first
            place += 2 + int.from_bytes(image[4:6], "big")
        body = JPEG_HEADER + xmp
        return image[:place] + b"\xff\xe1" + (2 + len(body)).to_bytes(2, "big") + body + image[place:]
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return _webp(image, xmp)
    raise ValueError(f"XMP goes into PNG, JPEG and WebP, got a file that begins with {image[:12]!r}")


def _text(value: str) -> str:
    return NOT_XML.sub("\ufffd", value if len(value) <= LONGEST else value[: LONGEST - 1] + "…")


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def _webp(image: bytes, xmp: bytes) -> bytes:
    """A file of the simple format is made one of the extended format, whose head says the size of the canvas."""
    chunks = image[12:]
    if chunks[:4] == b"VP8X":
        head, chunks = bytearray(chunks[8:18]), chunks[18:]
        head[0] |= WEBP_XMP
    else:
        from PIL import Image

        with Image.open(io.BytesIO(image)) as opened:
            (width, height), alpha = opened.size, opened.mode == "RGBA"
        head = bytearray([WEBP_XMP | (WEBP_ALPHA if alpha else 0), 0, 0, 0])
        head += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + _riff_chunk(b"VP8X", bytes(head)) + chunks + _riff_chunk(b"XMP ", xmp)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _riff_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + len(body).to_bytes(4, "little") + body + b"\0" * (len(body) % 2)
