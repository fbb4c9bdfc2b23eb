"""Runs commands in this process or in one of their own, on plans built once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from temper.cli.app import app


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture(scope="session")
def temper(timing_cache: Path) -> Run:
    """temper("build", path, ...) in this process."""

    def run(*args: object) -> Outcome:
        result = CliRunner().invoke(app, [str(a) for a in args], env={"TEMPER_CACHE": str(timing_cache)})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


def _interruptible() -> None:
    """A job in the background may have been started with SIGINT ignored, which its children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*args: object, cache: Path, **options: object) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    env = {**os.environ, "TEMPER_CACHE": str(cache), **options.pop("env", {})}  # type: ignore[dict-item]
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": _interruptible, **options}
    return subprocess.Popen([sys.executable, "-m", "temper", *map(str, args)], env=env, text=True, **settings)  # type: ignore[call-overload, no-any-return]


@pytest.fixture(scope="session")
def spawned(timing_cache: Path) -> Run:
    """As `temper`, in a process of its own."""

    def run(*args: object, **options: object) -> Outcome:
        process = start(*args, cache=timing_cache, **options)
        out, err = process.communicate(timeout=120)
        return Outcome(process.returncode, out or "", err or "")

    return run


@pytest.fixture(scope="session")
def plan(temper: Run, small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's plan, one thread, with its portable graph, timed."""
    path = tmp_path_factory.mktemp("plans") / "small.plan"
    done = temper("build", small_onnx, "-o", path, "--threads", 1, "--effort", 1, "--portable", "-q")
    assert (done.code, done.out, done.err) == (0, "", "")
    return path


@pytest.fixture(scope="session")
def batched(temper: Run, dynamic_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan for batches 1 to 8, untimed."""
    path = tmp_path_factory.mktemp("plans") / "batched.plan"
    done = temper(
        "build", dynamic_onnx, "-o", path, "--threads", 1, "--effort", 0, "--batch", "1:4:8", "--portable", "-q"
    )
    assert done.code == 0, done.err
    return path


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "image.npy"
    np.save(path, np.random.default_rng(3).standard_normal((1, 3, 12, 12)).astype(np.float32))
    return path
