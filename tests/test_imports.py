"""The law of rooms: who may import whom, no cycles, and nothing heavy imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "temper"

#: room -> rooms it may import when a module of it is loaded; a room is a folder of temper/, or a module beside them.
#: A longer name ("plan.format") is one module of a room, and its own row if it has one.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "config": {"errors"},
    "dtypes": set(),  # how arrays hold the types numpy lacks
    "reference": {"errors", "dtypes"},
    "ir.dims": set(),  # expressions over run-time sizes: the plan holds them and the runtime evaluates them
    "ir": {"errors", "dtypes", "reference"},
    "reference.formats": {"dtypes"},
    "frontends": {"errors", "dtypes", "ir", "reference.formats"},
    # programs and workloads are data, which passes make and tactics answer
    "tactics.epilogue": set(),
    "tactics.epilogue_reference": {"reference", "tactics.epilogue"},
    "tactics.base": {"ir", "tactics.epilogue"},
    "tactics.workload": {"ir", "passes.chains", "passes.region", "tactics.base", "tactics.epilogue"},
    "passes": {"errors", "dtypes", "ir", "reference", "tactics.epilogue"},
    "quantize": {"errors", "ir", "passes", "reference"},
    "compile": {"errors"},
    "tactics": {"errors", "dtypes", "ir", "reference", "compile", "config"},
    "tune": {"errors", "dtypes", "config", "ir", "reference", "compile", "tactics", "passes", "runtime", "plan.cubins"},
    "plan.container": {"errors", "ir.dims"},
    "plan.format": {"errors", "ir.dims", "plan.container"},
    "plan.file": {"errors", "plan.container", "plan.format"},
    "plan": {"errors", "config", "ir", "passes", "tactics"},
    "plan.cubins": {"errors", "plan.container"},
    "runtime": {
        "errors", "config", "dtypes", "reference", "ir.dims", "plan.container", "plan.cubins", "plan.file",
        "plan.format",
    },
    "profiles": {"errors", "config", "ir"},
    "target": {"errors", "config", "plan", "tactics", "compile", "tune", "runtime"},
    "assemble": {"errors", "config", "ir", "passes", "tactics", "tune", "plan", "profiles", "target"},
    "partitioning": {"config", "ir", "passes", "tactics", "plan", "target", "assemble"},
    "programs": {"errors", "ir", "passes", "tactics", "plan", "tune", "profiles", "assemble", "partitioning"},
    "builder": {"errors", "config", "ir", "passes", "tactics", "compile", "tune", "plan", "runtime"}
    | {"profiles", "target", "assemble", "partitioning", "programs", "quantize"},
    "precision.outcome": {"errors", "precision.records"},
    "precision": {"errors", "config", "dtypes", "ir", "passes", "quantize", "reference", "tactics", "compile", "tune"}
    | {"plan", "runtime", "profiles", "target", "assemble", "builder", "frontends"},
}

#: Rooms on top: they may import anything, and nothing below imports them.
TOP = {
    "api",
    "cli",
    "compare",
    "debug",
    "peers",
    "inspect",
    "report",
    "onnx_backend",
    "tensorrt",
    "tf_trt",
    "torch",
    "serve",
    "__main__",
    "",
}

#: Packages that only some users have: a module may import them inside functions only.
OPTIONAL = (
    "onnx",
    "onnxruntime",
    "openvino",
    "ziglang",
    "triton",
    "torch",
    "tensorflow",
    "typer",
    "rich",
    "sklearn",
    "scipy",
    "PIL",
)

#: Modules that implement an optional package's own interface and so cannot be loaded without it.
INTERFACES = {
    "temper.onnx_backend": "onnx",
    # commands declare their options with typer's types; temper.cli itself says what is missing
    **{
        f"temper.cli.{m}": "typer"
        for m in "app bench build calibrate compare debug inspect misc rebuild report run".split()
    },
    **{f"temper.cli.{m}": "rich" for m in ("show", "summary")},
}

MODULES = sorted(
    ".".join(("temper", *p.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for p in ROOT.rglob("*.py")
)


def _path(module: str) -> Path:
    base = ROOT.parent.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _loaded(node: ast.AST) -> Iterator[ast.stmt]:
    """Import statements that run when the module is loaded."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield from _loaded(other)
        else:
            yield from _loaded(child)


@cache
def imports(module: str) -> frozenset[str]:
    """Modules that `module` imports while it is loaded; names of this package in full."""
    found: set[str] = set()
    for node in _loaded(ast.parse(_path(module).read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            source = node.module or ""
            for a in node.names:
                full = f"{source}.{a.name}"
                found.add(full if full in MODULES else source)
    return frozenset(found)


def _row(module: str) -> str:
    """The row of ALLOWED (or the room of TOP) a module belongs to: the longest that fits."""
    name = module.removeprefix("temper").removeprefix(".")
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        if ".".join(parts[:n]) in ALLOWED:
            return ".".join(parts[:n])
    return parts[0]


def _may(room: str, other: str) -> bool:
    """May a module of `room` import module `other` (without the package's name)?"""
    return any(other == a or other.startswith(a + ".") for a in ALLOWED[room] | {room})


@pytest.mark.parametrize("module", MODULES)
def test_direction(module: str) -> None:
    room = _row(module)
    if room in TOP:
        return
    assert room in ALLOWED, f"{module}: a new room needs a row in this table"
    for name in sorted(imports(module)):
        if name.split(".")[0] == "temper":
            assert _may(room, name.removeprefix("temper").removeprefix(".")), f"{module} may not import {name}"


def test_kernels_of_one_device_do_not_build_on_those_of_another() -> None:
    for module in MODULES:
        for one, other in (("cpu", "cuda"), ("cuda", "cpu")):
            if module.startswith(f"temper.tactics.{one}."):
                wrong = [n for n in imports(module) if n.startswith(f"temper.tactics.{other}")]
                assert not wrong, f"{module} imports {wrong}: what both devices use belongs in temper/tactics"


def test_runtime_needs_numpy_only() -> None:
    """What a deployed engine loads: the runtime, the plan format, the references and errors."""
    seen: set[str] = set()
    todo = [m for m in MODULES if m.startswith("temper.runtime")]
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        for name in imports(module):
            top = name.split(".")[0]
            if top == "temper":
                todo.append(name)
            else:
                assert top == "numpy" or top in sys.stdlib_module_names, f"{module} imports {name}"
    rooms = {m.split(".")[1] for m in seen if "." in m}
    assert rooms <= {"runtime", "plan", "reference", "errors", "config", "ir", "dtypes"}, rooms
    assert {m for m in seen if m.startswith(("temper.plan.", "temper.ir."))} <= {
        "temper.plan.file",
        "temper.plan.format",
        "temper.plan.container",
        "temper.plan.cubins",
        "temper.ir.dims",
    }


def test_no_cycles() -> None:
    state: dict[str, int] = {}

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert state.get(module) != 1, f"import cycle: {' -> '.join((*path[path.index(module) :], module))}"
        if module in state:
            return
        state[module] = 1
        for name in sorted(imports(module)):
            if name in MODULES and name != module and _path(name).name != "__init__.py":
                visit(name, (*path, module))
        state[module] = 2

    for module in MODULES:
        visit(module, ())


def test_optional_packages_are_imported_late() -> None:
    for module in MODULES:
        late = [n for n in imports(module) if n.split(".")[0] in OPTIONAL and n.split(".")[0] != INTERFACES.get(module)]
        assert not late, f"{module} imports {late} when it is loaded"


def test_every_module_loads_without_optional_packages() -> None:
    code = f"""
import importlib, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Block())
for module in {[m for m in MODULES if not m.endswith("__main__") and m not in INTERFACES]!r}:
    importlib.import_module(module)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_temper_is_light() -> None:
    code = (
        "import sys, temper; print([m for m in sys.modules if m.split('.')[0] in ('numpy', 'onnx', 'typer', 'rich')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    assert done.stdout.strip() == "[]"
