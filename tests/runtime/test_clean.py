"""The runtime in an interpreter that has numpy and nothing else: no compiler, no onnx, no site-packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import temper
from temper.plan import file as plan_file
from tests.runtime.handmade import expected, host_plan, make_plan

PROGRAM = """
import sys
sys.path[:0] = [sys.argv[1]]
import numpy as np
from temper.runtime.engine import Engine
engine = Engine.load(sys.argv[2])
before = {m for m in sys.modules if m.split('.')[0] == 'temper'}
np.save(sys.argv[4], engine(np.load(sys.argv[3])))
result = Engine.load(sys.argv[5])(np.load(sys.argv[3]))
print(*sorted(before))
FOREIGN = {'onnx', 'ziglang', 'google', 'onnxruntime', 'subprocess', 'rich'}
print(*sorted({m.split('.')[0] for m in sys.modules} & FOREIGN))
"""

ALLOWED = {
    "temper",
    "temper.dtypes",
    "temper.errors",
    "temper.plan",
    "temper.plan.container",
    "temper.plan.file",
    "temper.plan.format",
    "temper.ir",
    "temper.ir.dims",
    "temper.runtime",
}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to import from: temper and numpy."""
    folder = tmp_path_factory.mktemp("bare")
    package = Path(np.__file__).parent
    for source in (package, package.with_name("numpy.libs"), Path(temper.__file__).parent):
        if source.exists():
            (folder / source.name).symlink_to(source)
    return folder


def test_runtime_needs_numpy_only(bare: Path, tmp_path: Path) -> None:
    plan_file.write(make_plan(), tmp_path / "a.plan")
    plan_file.write(host_plan(), tmp_path / "host.plan")
    x = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-B",
            "-c",
            PROGRAM,
            str(bare),
            *(str(tmp_path / n) for n in ("a.plan", "x.npy", "y.npy", "host.plan")),
        ],
        capture_output=True,
        text=True,
        env={},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected(x))
    ours, foreign = done.stdout.split("\n")[:2]
    assert {m for m in ours.split() if m not in ALLOWED and not m.startswith("temper.runtime.")} == set()
    # the standard library's platform module imports subprocess up to Python 3.10
    assert set(foreign.split()) <= ({"subprocess"} if sys.version_info < (3, 11) else set())
