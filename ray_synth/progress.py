"""What a person sees of a run: lines and bars on the terminal, every line with its time in log.txt."""

from __future__ import annotations

import datetime
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from ray_synth.runs import RunFolder

LINE_EVERY = 30.0  # seconds between two lines about progress where there is no terminal


class Reporter:
    """Talks to standard error, so that standard output holds results alone."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # that a home folder cannot be written is no news
        self.folder: RunFolder | None = None
        self.live: Live | None = None
        self.bar: Progress | None = None

    def log_to(self, folder: RunFolder) -> None:
        self.folder = folder

    def log(self, text: str) -> None:
        if self.folder is not None:
            text = text.encode("utf-8", "replace").decode()  # a file's name may hold what no text does
            stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            try:
                self.folder.append("log.txt", "".join(f"{stamp} {line}\n" for line in text.splitlines()))
            except OSError as error:  # a full disk must not hide the message that says so
                url, self.folder = self.folder.url, None
                self.console.print(f"{url}/log.txt cannot be written: {error}", markup=False, soft_wrap=True)

    def log_traceback(self) -> None:
        self.log(traceback.format_exc())

    def say(self, text: str) -> None:
        self.log(text)
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, plan: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar for one stage. Yields `advance(done)`, which takes the number done so far."""
        self.say(f"{name}: {plan}")
        start = time.monotonic()
        columns = (
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        bar = Progress(*columns, console=self.console)
        try:
            with Live(bar, console=self.console, refresh_per_second=4) as live:
                self.live, self.bar = live, bar
                task = bar.add_task(name, total=total)
                try:
                    yield self._counted(name, total, lambda done: bar.update(task, completed=done))
                finally:
                    self.live = self.bar = None
                bar.update(task, completed=total)
        finally:
            if not self.console.is_interactive:
                self.console.line()  # what is said next stands on a line of its own
        self.log(f"{name}: complete after {time.monotonic() - start:.1f} s")

    @contextmanager
    def part(self, name: str, plan: str, total: int) -> Iterator[Callable[[int], None]]:
        """Work in the middle of a stage, with a bar of its own beside the stage's, if there is one. Yields
        `advance(done)`."""
        if self.bar is None:
            with self.stage(name, plan, total) as advance:
                yield advance
            return
        self.say(f"{name}: {plan}")
        bar, task = self.bar, self.bar.add_task(name, total=total)
        try:
            yield self._counted(name, total, lambda done: bar.update(task, completed=done))
        finally:
            bar.remove_task(task)

    def _counted(self, name: str, total: int, show: Callable[[int], None]) -> Callable[[int], None]:
        """`advance` of a bar; where nobody sees bars (a job's log, nohup), a line every half minute in its place."""
        said = time.monotonic()

        def advance(done: int) -> None:
            nonlocal said
            done = min(done, total)
            show(done)
            if not self.console.is_terminal and done < total and time.monotonic() - said > LINE_EVERY:
                said = time.monotonic()
                self.console.print(f"{name}: {done:,} of {total:,}", markup=False, soft_wrap=True)

        return advance

    def below(self, shown: Callable[[], RenderableType]) -> None:
        """Show something under the bar of the stage that runs, on a terminal."""
        if self.live is not None and self.bar is not None and self.console.is_terminal:
            self.live.update(Group(self.bar, shown()))
