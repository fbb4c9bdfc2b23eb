"""The Typer application: its commands, and what becomes of exceptions they end in."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer
from typer.core import TyperGroup

from temper.cli.bench import bench
from temper.cli.build import build
from temper.cli.calibrate import calibrate
from temper.cli.compare import compare
from temper.cli.debug import debug
from temper.cli.inspect import inspect
from temper.cli.misc import knobs, verify
from temper.cli.rebuild import rebuild
from temper.cli.report import report
from temper.cli.run import run
from temper.errors import TemperError


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        with outcomes():
            return super().invoke(ctx)


@contextmanager
def outcomes() -> Iterator[None]:
    """Turns expected failures into one line on stderr and an exit code (see temper.cli)."""
    try:
        yield
        sys.stdout.flush()
    except TemperError as e:
        _fail(str(e), 1)
    except BrokenPipeError:
        _silence()
        sys.exit(141)
    except OSError as e:
        if e.filename is None:
            _silence()
        _fail(f"{e.filename}: {e.strerror}" if e.filename else str(e.strerror or e), 1)
    except MemoryError:
        _fail("out of memory", 1)
    except KeyboardInterrupt:
        _fail("interrupted", 130, "")


def _fail(message: str, code: int, prefix: str = "error: ") -> None:
    with suppress(OSError):
        print(f"{prefix}{message}", file=sys.stderr, flush=True)
    sys.exit(code)


def _silence() -> None:
    """Standard output cannot be written any more: what is still buffered must not raise again at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turns a trained network into an engine tuned for this machine: "
    "one .plan file, run without compiler or framework.",
)


def _version(value: bool) -> None:
    if value:
        from temper import __version__

        print(f"temper {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


for _command in (build, calibrate, run, bench, inspect, compare, rebuild, report, verify, knobs):
    app.command()(_command)
app.add_typer(debug, name="debug")
