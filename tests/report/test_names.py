"""Names are text: whatever a class, a file or a setting is called, tables, pictures and sheets show it as it is."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console

from ray_synth.bound.result import ClassEstimate
from ray_synth.progress import Reporter
from ray_synth.report.fonts import families_for, missing_in
from ray_synth.report.plots import as_svg, estimate_picture, write_picture
from ray_synth.report.trials import live_table
from ray_synth.runs import RunFolder
from ray_synth.sweep.ledger import Ledger, Setting, Trial

from ..estimates import curve_of, estimate_of

ODD = ("[/i]", "[red]", ":cat:", "$x$", "$\\frac{", "a_b^c", "<b>&amp;", "%s {0}", "=1+1")


def drawn(names: Sequence[str]) -> Figure:
    classes = tuple(
        ClassEstimate(
            label=label, num_real=5, num_synthetic=5, ratio=1.0, interval=None, recall_real_only=label / 10, recall=0.9,
            distance=None,
        )
        for label in range(len(names))
    )  # fmt: skip
    curve = curve_of([0, 16], [0.2, 0.1], [0.1, 0.1], [0.3, 0.2])
    return estimate_picture(estimate_of(curve, classes=classes), names)


def words(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.findobj(Text)}


@settings(max_examples=3, derandomize=True, deadline=None)
@given(names=st.lists(st.text(max_size=12) | st.sampled_from(ODD), min_size=1, max_size=3))
def test_any_name_is_drawn(names: list[str]) -> None:
    figure = drawn(names)
    assert as_svg(figure).startswith("<svg")


def test_a_name_is_no_formula() -> None:
    figure = drawn(ODD)
    assert set(ODD) <= words(figure)
    assert not any(text.get_parse_math() for text in figure.findobj(Text) if text.get_text() in ODD)


def test_letters_that_no_font_has_stay_text_where_the_page_is_read() -> None:
    letter = "\U0001e900"  # of Adlam, which none of matplotlib's fonts has
    figure = drawn(["cat", f"{letter}x"])
    if not missing_in(figure):
        pytest.skip("an installed font has it")
    assert f">{letter}x</text>" in as_svg(figure)


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_a_picture_says_which_letters_it_could_not_draw(ending: str, tmp_path: Path) -> None:
    figure = drawn(["\U0001e900", "\U0001e901", "café"])
    if len(missing_in(figure)) != 2:
        pytest.skip("an installed font has them")
    notes = write_picture(figure, tmp_path / f"x.{ending}")
    assert (tmp_path / f"x.{ending}").stat().st_size > 1000
    if ending == "svg":
        assert notes == []
        return
    assert len(notes) == 1
    assert "no font on this machine has \U0001e900\U0001e901" in notes[0]
    assert f"type --plot {tmp_path}/x.svg" in notes[0]
    assert {"U+1E900", "U+1E901", "café"} <= words(figure)  # and are told apart


def test_a_font_that_has_the_letters_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray_synth.report import fonts

    has = {"DejaVu Sans": "abc", "Noto Sans Adlam": "\U0001e900"}
    monkeypatch.setattr(fonts, "_letters_of", lambda family: frozenset(has.get(family, "")))
    listed = [*fonts.font_manager.fontManager.ttflist]
    listed.append(fonts.font_manager.FontEntry(fname="x.ttf", name="Noto Sans Adlam"))
    monkeypatch.setattr(fonts.font_manager.fontManager, "ttflist", listed)
    assert families_for(["abc"]) == ["DejaVu Sans"]
    assert families_for(["abc \U0001e900"]) == ["DejaVu Sans", "Noto Sans Adlam"]


def trial(number: int, **settings: Any) -> Trial:
    raw = {"synthetic_ratio": 1.0, "num_clusters": 2, **settings}
    return Trial(
        trial_id=f"t{number:05}", status="complete", seconds=1.0, accuracy=0.5, setting=Setting.from_dict(raw),
        error=".x=cmd|' /C calc'!A0",
    )  # fmt: skip


WORDS = ["=1+1", "@SUM(A1)", "+1", "-cmd|' /C calc'!A0", ".x=cmd|' /C calc'!A0", "a,b", '"q"', "[/i]", "\t=1"]


def test_a_sheet_takes_words_for_words(tmp_path: Path) -> None:
    rows = [trial(i, weights=word) for i, word in enumerate(WORDS)]
    folder = RunFolder(tmp_path)
    ledger = Ledger(folder)
    for row in rows:
        ledger.ended[row.trial_id] = row
    ledger.write_table()
    text = folder.read("sweep/trials.csv").decode()
    read = list(csv.DictReader(io.StringIO(text)))
    assert [row["weights"].removeprefix("'") for row in read] == WORDS
    assert [row["weights"].startswith("'") for row in read] == [True, True, True, True, *[False] * 4, True]
    assert all(f'"{word}"' in text for word in (".x=cmd|' /C calc'!A0", "'=1+1"))  # quoted, and not as a formula
    assert float(read[0]["accuracy"]) == 0.5


def test_a_terminal_takes_words_for_words() -> None:
    console = Console(file=io.StringIO(), width=200, markup=Reporter().console._markup)
    console.print(live_table([trial(i, weights=word) for i, word in enumerate(ODD)], {}))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(word in shown for word in ODD[-6:])
