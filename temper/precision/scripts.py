"""User functions named as `script.py:function` on the command line, and how their exceptions are reported."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from temper.errors import DataError, TemperError

#: Where frames that are not the user's come from.
_OWN = str(Path(__file__).parents[1])


def is_function(text: str) -> bool:
    """Does this name a function in a Python file?"""
    file, colon, name = text.rpartition(":")
    return bool(colon) and file.endswith(".py") and name.isidentifier()


def load_function(text: str) -> Callable[..., Any]:
    """The object that `script.py:function` names; the script is run, with its own folder first on the path for
    imports. DataError if there is no such file or function, or the script raises."""
    file, colon, name = text.rpartition(":")
    path = Path(file)
    if not colon or not name.isidentifier():
        raise DataError(f"{text}: name a function in a Python file, as script.py:function")
    if not path.is_file():
        raise DataError(f"{text}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"temper_script_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        with raising(str(path)):
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    found = getattr(module, name, None)
    if not callable(found):
        names = [k for k, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise DataError(f"{text}: {path} defines no function '{name}'; it has {', '.join(names) or 'none'}")
    return found


@contextmanager
def raising(what: str) -> Iterator[None]:
    """Turns whatever a user's code raises into a DataError that names `what` and where; Temper's own errors pass."""
    try:
        yield
    except TemperError:
        raise
    except SystemExit as e:
        raise DataError(f"{what} ended the program (sys.exit, status {e.code})") from e
    except Exception as e:  # a user's code may raise anything
        frames = [f for f in traceback.extract_tb(e.__traceback__) if not f.filename.startswith(_OWN)]
        where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
        raise DataError(f"{what} raised {type(e).__name__}: {e}{where}") from e
