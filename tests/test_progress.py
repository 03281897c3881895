"""What a person sees while a stage runs."""

from __future__ import annotations

import contextlib
import io

from rich.console import Console, RenderableType

from ray_synth.progress import Reporter


def reporter(*, terminal: bool) -> tuple[Reporter, io.StringIO]:
    seen, out = io.StringIO(), Reporter()
    out.console = Console(file=seen, force_terminal=terminal, width=100, highlight=False)
    return out, seen


def test_work_in_the_middle_of_a_stage_has_a_bar_of_its_own() -> None:
    out, seen = reporter(terminal=True)
    with out.stage("sweep", "3 trials", 3) as advance:
        advance(1)
        assert out.bar is not None
        with out.part("generate", "40 more images", 40) as made:
            made(10)
            assert [(task.completed, task.total) for task in out.bar.tasks] == [(1, 3), (10, 40)]
        assert len(out.bar.tasks) == 1
    assert "generate: 40 more images" in seen.getvalue()
    with out.part("images", "30 are looked at", 30) as read:  # outside a stage it is the bar
        read(10)
        assert out.bar is not None
        assert [(task.completed, task.total) for task in out.bar.tasks] == [(10, 30)]
    assert out.bar is None


def test_a_table_is_drawn_for_a_terminal_alone() -> None:
    drawn = []

    def table() -> RenderableType:
        drawn.append(1)
        return "the table"

    for terminal in (False, True):
        out, seen = reporter(terminal=terminal)
        with out.stage("sweep", "3 trials", 3):
            out.below(table)
        assert ("the table" in seen.getvalue(), len(drawn)) == (terminal, int(terminal))


def test_what_is_said_after_a_stage_that_was_cut_off_stands_on_its_own_line() -> None:
    out, seen = reporter(terminal=False)
    with contextlib.suppress(KeyboardInterrupt), out.stage("sweep", "3 trials", 3):
        raise KeyboardInterrupt
    out.say("interrupted")
    assert seen.getvalue().splitlines()[-1] == "interrupted"
