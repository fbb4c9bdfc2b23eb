"""Writes a folder that shows a fault on its own: the model, its inputs, findings, the command to run, and versions."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from temper import __version__
from temper.config import KNOBS
from temper.debug.extract import Case
from temper.errors import BuildError

_PACKAGES = ("numpy", "onnx", "onnxruntime", "ziglang")


def versions() -> dict[str, Any]:
    """Of everything a result may depend on: packages, Python, the machine and the TEMPER_* variables that are set."""
    import os

    from temper.runtime.machine import fingerprint

    found: dict[str, Any] = {"temper": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    found["machine"] = fingerprint()
    found["knobs"] = {k.name: os.environ[k.name] for k in KNOBS if k.name in os.environ}
    return found


def save_case(case: Case, model: Path, inputs: Path) -> None:
    """Writes the model and its inputs. BuildError says why it cannot."""
    data = case.model.SerializeToString()
    try:
        model.write_bytes(data)
        np.savez(inputs, **case.feeds)  # type: ignore[arg-type]
    except OSError as e:
        raise BuildError(f"cannot write {e.filename or model}: {e.strerror}") from e


def write_repro(
    folder: Path,
    case: Case,
    *,
    title: str,
    found: Sequence[str],
    command: Sequence[str],
    settings: Mapping[str, Any],
    texts: Mapping[str, str] | None = None,
) -> None:
    """Writes model.onnx, inputs.npz, config.json and README.txt. command: what shows the fault when run in the folder.
    texts: further files by name. BuildError if the folder cannot be written."""
    import shlex

    line = shlex.join(command)
    config = {"command": list(command), "found": list(found), **settings, "versions": versions()}
    readme = [title, "", *found, "", "To see it again, in this folder:", "", f"    {line}", ""]
    readme += ["model.onnx   the model", "inputs.npz   its inputs, by name", "config.json  settings and versions"]
    readme += [f"{name:<12} {_about(name)}" for name in texts or ()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise BuildError(f"cannot write {folder}: {e.strerror}") from e
    save_case(case, folder / "model.onnx", folder / "inputs.npz")
    files = {"config.json": json.dumps(config, indent=1, default=str), "README.txt": "\n".join(readme) + "\n"}
    for name, text in {**files, **(texts or {})}.items():
        try:
            (folder / name).write_text(text)
        except OSError as e:
            raise BuildError(f"cannot write {folder / name}: {e.strerror}") from e


def _about(name: str) -> str:
    return {
        "before.txt": "the graph before the change, in Temper's text form",
        "after.txt": "the graph after it",
        "kernel.c": "source of the kernel",
    }.get(name, "")


def temper_command(*args: str) -> tuple[str, ...]:
    """A temper command line for this interpreter."""
    return (Path(sys.executable).name, "-m", "temper", *args)
