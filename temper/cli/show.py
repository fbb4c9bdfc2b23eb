"""Tables, units and the progress bar of the commands."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from temper.tune.select import Progress

_STAGES = {
    "import": "reading the model",
    "passes": "rewriting the graph",
    "compile": "compiling candidates",
    "time": "timing candidates",
    "plan": "laying out the plan",
    "read": "reading the data",
    "calibrate": "calibrating",
    "sensitivity": "measuring sensitivity",
}


def console() -> Console:
    """Standard output; not cut to 80 columns where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 240, highlight=False)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "", wide: Sequence[str] = ()
) -> Table:
    """A plain table; columns whose cells are all numbers are right-aligned. wide: columns that wrap rather than being
    cut.
    """
    out = Table(
        box=None,
        pad_edge=False,
        title=escape(title) or None,
        title_justify="left",
        title_style="bold",
        header_style="dim",
    )
    for i, name in enumerate(columns):
        numeric = all(not isinstance(r[i], str) or r[i] in ("", "-") or str(r[i])[0].isdigit() for r in rows)
        out.add_column(
            escape(name),
            justify="right" if numeric and rows else "left",
            overflow="fold" if name in wide else "ellipsis",
            no_wrap=name not in wide,
        )
    for r in rows:
        out.add_row(*(escape(str(c)) for c in r))
    return out


def facts(rows: Sequence[tuple[str, object]]) -> Table:
    """Name and value pairs."""
    out = Table(box=None, pad_edge=False, show_header=False)
    out.add_column(style="dim", no_wrap=True)
    out.add_column(overflow="fold")
    for name, value in rows:
        out.add_row(escape(name), escape(str(value)))
    return out


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def size(count: float) -> str:
    """Bytes in decimal units."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return (
                f"{count:.0f} {unit}"
                if unit == "B"
                else f"{count:.3g} {unit}"
                if count < 100
                else f"{count:.0f} {unit}"
            )
        count /= 1000
    return f"{count:.3g} GB"


def span(seconds: float | None) -> str:
    """A duration with three digits."""
    if seconds is None:
        return "-"
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}" if seconds * factor < 100 else f"{seconds * factor:.0f} {unit}"
    return f"{seconds:.1f} s"


def teller(quiet: bool = False) -> Callable[[str], None]:
    """Takes lines that tell what a long command is doing, for standard error."""
    screen = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 240)
    return lambda line: None if quiet else screen.print(line, markup=False)


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Progress]:
    """A callback for a build that draws a bar per stage on standard error; nothing where that is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    if quiet or not sys.stderr.isatty():
        with _kept_signals() as check:
            yield lambda stage, done, total: check()
        return
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    tasks: dict[str, Any] = {}
    with _kept_signals() as check, Progress(*columns, console=Console(stderr=True), transient=True) as bar:

        def report(stage: str, done: int, total: int) -> None:
            check()
            if stage not in tasks:
                for earlier in tasks.values():
                    bar.update(earlier, completed=bar.tasks[earlier].total)
                tasks[stage] = bar.add_task(_STAGES.get(stage, stage), total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield report


@contextmanager
def _kept_signals() -> Iterator[Callable[[], None]]:
    """A function that raises again what Ctrl-C or SIGTERM raised before: in a finaliser, Python would drop it."""
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {n: h for n in numbers if callable(h := signal.getsignal(n))}
    seen: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        before[signal.Signals(number)](number, frame)

    def check() -> None:
        if seen:
            before[signal.Signals(seen[0])](seen[0], None)

    for number in before:
        signal.signal(number, handle)
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
