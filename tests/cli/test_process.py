"""The command as a process: start-up, exit codes, interruption, full disks, closed pipes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from tests.commands import Run, start
from tests.conftest import small_model

HEAVY = {"onnx", "onnxruntime", "openvino", "numpy", "ziglang", "sqlite3"}


def test_help_loads_nothing_heavy() -> None:
    code = "import sys\ntry:\n import temper.cli\n temper.cli.main()\nfinally:\n print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert "build" in done.stdout and "compare" in done.stdout
    assert {m.partition(".")[0] for m in done.stderr.split()} & HEAVY == set()


def test_without_typer(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}
    done = subprocess.run(
        [sys.executable, "-m", "temper", "--help"], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "temper-rt[build]" in done.stderr and "Traceback" not in done.stderr


def test_exit_codes(spawned: Run, plan: Path, image: Path) -> None:
    assert spawned("--version").code == 0
    assert spawned("build").code == 2
    done = spawned("run", plan, "--data", image)
    assert (done.code, done.err) == (0, "")
    done = spawned("run", plan)
    assert (done.code, done.out) == (1, "") and done.err.startswith("error: ")


def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    code = (
        "import sys, temper.cli, temper.cli.app as a\n"
        "def broken(): raise ZeroDivisionError('nobody expected this')\n"
        "a.app.command()(broken)\nsys.argv[1:] = ['broken']\ntemper.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "nobody expected this" in done.stderr
    assert done.stderr.rstrip().endswith("this is a bug in Temper; please report it with the lines above")


def _family(marker: str) -> list[int]:
    """Processes whose environment holds `marker`."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if marker.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("stage", ["compile", "time"])
def test_interrupted_build_leaves_nothing(tmp_path: Path, number: int, code: int, stage: str) -> None:
    temporary, out = tmp_path / "tmp", tmp_path / "out"
    temporary.mkdir()
    out.mkdir()
    onnx.save(small_model(blocks=3, channels=24, size=40), tmp_path / "model.onnx")
    env = {"TMPDIR": str(temporary)}
    cache = tmp_path / "cache" / "c.sqlite"
    # what the build is doing shows in its debug lines and in the compilers' folders
    process = start(
        "build",
        tmp_path / "model.onnx",
        "-o",
        out / "a.plan",
        "--effort",
        "1" if stage == "time" else "2",
        cache=cache,
        env={**env, "TEMPER_DEBUG": "2"} if stage == "time" else env,
    )
    try:
        if stage == "compile":
            deadline = time.monotonic() + 60
            while len(_family(str(temporary))) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(_family(str(temporary))) >= 2, "no compiler was seen"
        else:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("[temper]")
        process.send_signal(number)
        printed, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code, err
    assert "Traceback" not in err and printed == ""
    assert list(out.iterdir()) == []
    assert list(temporary.iterdir()) == []
    assert _family(str(temporary)) == []


def test_full_disk_while_writing_the_plan(spawned: Run, plan: Path, tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    assert plan.stat().st_size > 150_000
    done = spawned("rebuild", plan, "-o", tmp_path / "new.plan", preexec_fn=small_files)
    assert done.code == 1, done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1 and "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_full_disk_on_standard_output(spawned: Run, plan: Path) -> None:
    with open("/dev/full", "w") as full:
        done = spawned("inspect", plan, "--json", stdout=full)
    assert done.code == 1
    assert done.err == "error: No space left on device\n"


def test_closed_pipe_is_quiet(plan: Path, timing_cache: Path) -> None:
    process = start("inspect", plan, "--tactics", "--all", "--json", cache=timing_cache)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(30) == 141


def test_unwritable_output(spawned: Run, small_onnx: Path, tmp_path: Path) -> None:
    done = spawned("build", small_onnx, "-o", "/proc/a.plan", "--effort", 0, "--threads", 1)
    assert done.code == 1 and done.err.startswith("error: cannot write /proc/a.plan") and done.err.count("\n") == 1
    if os.geteuid():  # root may write anywhere else
        tmp_path.chmod(0o500)
        done = spawned("build", small_onnx, "-o", tmp_path / "a.plan")
        assert done.code == 1 and "permission denied" in done.err
