"""Names in any script in, the installed fonts that have their letters out; and what to draw where none has them."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from matplotlib import font_manager
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

OURS = "DejaVu Sans"  # matplotlib brings it along
BOXES = "Last Resort"  # which has a box for every letter there is


def families_for(texts: Iterable[str]) -> list[str]:
    """Font families, ours first, that together have every letter for which there is a font on this machine."""
    families, missing = [OURS], _letters(texts) - _letters_of(OURS)
    installed = sorted({font.name for font in font_manager.fontManager.ttflist}) if missing else []
    for family in installed:
        if missing & _letters_of(family) and not family.startswith(BOXES):
            families.append(family)
            missing -= _letters_of(family)
    return families


def missing_in(figure: Figure) -> str:
    """The letters in a figure that no installed font has, each once."""
    letters = _letters(text.get_text() for text in figure.findobj(Text))
    for family in families_for([]) if letters <= _letters_of(OURS) else families_for(letters):
        letters -= _letters_of(family)
    return "".join(sorted(letters))


def spell(figure: Figure, letters: str) -> None:
    """Draw these letters as their code points, such as U+732B: names stay apart, where boxes would all look alike."""
    codes = {ord(letter): f"U+{ord(letter):04X} " for letter in letters}
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            _spell_ticks(axis, codes)
    for text in figure.findobj(Text):
        text.set_text(text.get_text().translate(codes))


def _spell_ticks(axis: Axis, codes: dict[int, str]) -> None:
    """Words at the ticks are set anew each time a figure is drawn, so it is their list that changes."""
    locator = axis.get_major_locator()
    labels = [label.get_text() for label in axis.get_ticklabels()] if isinstance(locator, FixedLocator) else []
    if any(label.translate(codes) != label for label in labels):
        axis.set_ticks(list(locator()), [label.translate(codes).strip() for label in labels])


def _letters(texts: Iterable[str]) -> set[str]:
    return {letter for text in texts for letter in text if letter.isprintable() and not letter.isspace()}


@functools.cache
def _letters_of(family: str) -> frozenset[str]:
    """What a family's regular font has."""
    found = [font for font in font_manager.fontManager.ttflist if font.name == family]
    found.sort(
        key=lambda font: (font.style != "normal", abs(int(font.weight) - 400) if str(font.weight).isdigit() else 0)
    )
    try:
        return frozenset(map(chr, FT2Font(found[0].fname).get_charmap())) if found else frozenset()
    except (OSError, RuntimeError, ValueError):  # a font file that cannot be read
        return frozenset()
