"""The `temper` command. Nothing heavy is imported here or in the command modules' heads, so that `temper --help` is
quick.

Exit codes: 0 done; 1 a TemperError or a full disk (one `error: ...` line on stderr), or `compare` found a deviation; 2
wrong usage; 3 an INT8 build wrote its plan, but could not keep the accuracy budget; 130 interrupted with Ctrl-C; 141
the reader of a pipe went away; 143 terminated. An unexpected exception keeps its traceback.
"""

from __future__ import annotations

import signal
import sys
import traceback
from types import TracebackType
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command in sys.argv and exits."""
    sys.excepthook = _bug
    sys.unraisablehook = _unraisable
    signal.signal(signal.SIGTERM, _terminated)
    try:
        from typer.main import get_command

        from temper.cli.app import app
    except ModuleNotFoundError as e:
        if (e.name or "").partition(".")[0] not in ("typer", "rich", "click"):
            raise
        print(f"error: the command line needs the package '{e.name}': pip install 'temper-rt[build]'", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    get_command(app)(prog_name="temper")  # app() itself would replace the excepthook
    sys.exit(0)


def _bug(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    traceback.print_exception(kind, error, where)
    print("this is a bug in Temper; please report it with the lines above", file=sys.stderr)


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    """An interruption that hits a finaliser is not lost: the build's next progress report ends it (see
    show.progress_bar).
    """
    if not issubclass(args.exc_type, (KeyboardInterrupt, SystemExit)):
        sys.__unraisablehook__(args)


def _terminated(signum: int, frame: object) -> None:
    """Ends by an exception, so that compilers are stopped and temporary files removed."""
    sys.exit(128 + signum)
