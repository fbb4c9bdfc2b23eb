"""Reduction finds the smallest failing part, keeps to the failure it began with, and leaves a folder that shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.debug.check import Command, Outcome, Same, differs, load_feeds, refuses
from temper.debug.extract import Subject, record
from temper.debug.judge import judge
from temper.debug.reduce import ddmin, reduce_model
from temper.debug.sizes import with_size
from temper.errors import ConfigError
from tests.commands import Run
from tests.debug.models import chain, perceptron


@pytest.fixture(autouse=True)
def own_cache(timing_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(timing_cache))


def script(path: Path, text: str) -> str:
    """A check command that runs `text`, in which `ops` are the model's op types and `feeds` its inputs."""
    head = "import sys, os, signal, time, numpy as np, onnx\nm = onnx.load(sys.argv[1])\n"
    head += "ops = [n.op_type for n in m.graph.node]\nfeeds = dict(np.load(sys.argv[2]))\n"
    path.write_text(head + text)
    return f"{sys.executable} {path} {{}} {{inputs}}"


@dataclass(frozen=True)
class Inside:
    """A check in this process: an exit status, and what is printed, from op types and inputs."""

    rule: Callable[[list[str], dict[str, np.ndarray]], int]
    says: Callable[[list[str]], str] = lambda ops: ""

    def __call__(self, model: Path, inputs: Path) -> Outcome:
        found = ops(onnx.load(model))
        return Outcome(self.rule(found, load_feeds(inputs)), self.says(found))

    def command(self) -> tuple[str, ...]:
        return ("true",)


def ops(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


@given(st.sets(st.integers(0, 40), min_size=1, max_size=5), st.integers(41, 60))
def test_ddmin_finds_a_needed_set(needed: set[int], count: int) -> None:
    def fails(kept: Iterable[int]) -> bool:
        return needed <= set(kept)

    assert set(ddmin(list(range(count)), fails)) == needed


@given(st.sets(st.integers(0, 20), min_size=1), st.integers(1, 4))
def test_ddmin_is_minimal_without_monotony(marked: set[int], modulus: int) -> None:
    def fails(kept: Iterable[int]) -> bool:
        found = len(marked & set(kept))
        return found > 0 and found % modulus == len(marked) % modulus

    kept = ddmin(list(range(21)), fails)
    assert fails(kept)
    assert not any(fails([k for k in kept if k != gone]) for gone in kept if len(kept) > 1)


def test_one_op_remains() -> None:
    case = chain("Relu", "Neg", "Abs", "Exp", "Sigmoid", "Tanh", "Neg")
    found = reduce_model(case, Inside(lambda ops, feeds: 5 if "Exp" in ops else 0))
    assert ops(found.case.model) == ["Exp"] and found.nodes == (7, 1)
    assert found.complete and found.outcome.status == 5
    # the new input holds what the node read in the whole model, cropped to the smallest size
    ((name, value),) = found.case.feeds.items()
    want = np.abs(-np.maximum(case.feeds["x"], 0))
    assert name == "v2" and np.array_equal(value, want[:1, :1])
    onnx.checker.check_model(found.case.model)


def test_two_ops_far_apart_remain() -> None:
    case = chain("Neg", "Exp", "Relu", "Neg", "Abs", "Tanh", "Neg", "Sigmoid")
    found = reduce_model(case, Inside(lambda ops, feeds: 3 if {"Exp", "Tanh"} <= set(ops) else 0))
    assert ops(found.case.model) == ["Exp", "Tanh"]
    assert len(found.case.model.graph.input) == 2 and len(found.case.model.graph.output) == 2


def test_values_decide() -> None:
    """A failure that depends on data keeps the data it depends on."""
    case = chain("Relu", "Exp", "Neg")

    def rule(ops: list[str], feeds: dict[str, np.ndarray]) -> int:
        return 2 if "Exp" in ops and ("v0" not in feeds or feeds["v0"].max() > 1) else 0

    found = reduce_model(case, Inside(rule))
    assert ops(found.case.model) == ["Exp"] and float(found.case.feeds["v0"].max()) > 1


def test_the_first_failure_is_pinned() -> None:
    """A part that fails with another exit status is not the same failure."""
    case = chain("Relu", "Exp", "Neg", "Abs")
    command = Inside(lambda ops, feeds: 4 if {"Exp", "Neg"} <= set(ops) else 9 if "Exp" in ops else 0)
    assert ops(reduce_model(case, command).case.model) == ["Exp", "Neg"]
    assert ops(reduce_model(case, command, Same(codes=(4, 9))).case.model) == ["Exp"]


def test_output_must_match() -> None:
    case = chain("Relu", "Exp", "Neg", "Abs")
    check = Inside(lambda ops, feeds: 1, lambda ops: "overflow" if {"Exp", "Abs"} <= set(ops) else "another thing")
    found = reduce_model(case, check, Same(match="over.?flow"))
    assert ops(found.case.model) == ["Exp", "Abs"]


def test_signals_and_time(tmp_path: Path) -> None:
    case = chain("Relu", "Exp", "Neg")
    text = "'Exp' in ops and os.kill(os.getpid(), signal.SIGSEGV)"
    found = reduce_model(case, Command(script(tmp_path / "c.py", text)))
    assert ops(found.case.model) == ["Exp"] and str(found.outcome) == "killed by SIGSEGV"
    slow = Command(f"{sys.executable} -c 'import time; time.sleep(60)' {{}}", timeout=0.5)
    assert slow(tmp_path / "m", tmp_path / "i").status is None
    with pytest.raises(ConfigError, match="ran out of time"):
        reduce_model(case, slow)
    assert Same(late=True).fails(slow(tmp_path / "m", tmp_path / "i"))


def test_nothing_to_reduce(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not fail"):
        reduce_model(chain("Relu"), Command(script(tmp_path / "c.py", "")))
    with pytest.raises(ConfigError, match="cannot be started"):
        reduce_model(chain("Relu"), Command("/no/such/program"))


def test_number_of_checks_is_bounded() -> None:
    case = chain(*["Relu"] * 12)
    found = reduce_model(case, Inside(lambda ops, feeds: int(len(ops) > 6)), most=4)
    assert found.checks == 4 and not found.complete
    assert 6 < len(ops(found.case.model)) < 12


def test_sizes_are_cut_everywhere_at_once() -> None:
    found = reduce_model(perceptron(), Inside(lambda ops, feeds: int(ops.count("MatMul") == 2)))
    shapes = {t.name: list(t.dims) for t in found.case.model.graph.initializer}
    assert shapes["w1"][1] == shapes["w2"][0] == 1
    onnx.checker.check_model(found.case.model, full_check=True)


def test_sizes_reach_shapes_and_groups() -> None:
    smaller = with_size(perceptron(), 8, 2)
    assert smaller is not None
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in smaller.model.graph.initializer}
    assert weights["w1"].shape == (2, 16) and weights["shape"].tolist() == [4, 2]
    assert all(not r.deviates for r in judge(smaller.model, smaller.feeds))
    assert with_size(perceptron(), 5, 1) is None


def test_parts_compute_what_the_whole_does() -> None:
    """Every single node, cut out with recorded inputs, gives the recorded outputs."""
    case = perceptron()
    subject = Subject(case)
    for i, node in enumerate(subject.nodes):
        part = subject.cut([i])
        assert part is not None
        onnx.checker.check_model(part.model, full_check=True)
        assert np.allclose(record(part)[node.output[0]], subject.values[node.output[0]], atol=1e-6)


def test_bodies_keep_the_values_they_capture() -> None:
    from onnx import TensorProto, helper

    bodies = {
        name: helper.make_graph(
            [helper.make_node(op, ["v0"], [f"{op}_out"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, None)],
        )
        for name, op in (("then_branch", "Neg"), ("else_branch", "Exp"))
    }
    case = chain("Relu", "Neg")
    del case.model.graph.node[1]
    case.model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "c"))
    case.model.graph.node.append(helper.make_node("If", ["c"], ["y"], name="choose", **bodies))
    part = Subject(case).of_names(["choose"])
    assert part is not None and list(part.feeds) == ["v0"]
    onnx.checker.check_model(part.model, full_check=True)
    assert np.array_equal(record(part)["y"], -np.maximum(case.feeds["x"], 0))


def test_types_numpy_lacks() -> None:
    """Values of bfloat16 travel as their codes and stay bfloat16, whether they become inputs or constants."""
    from onnx import TensorProto, helper

    case = chain("Relu", "Cast", "Neg", "Add", "Cast")
    nodes = case.model.graph.node
    nodes[1].attribute.append(helper.make_attribute("to", TensorProto.BFLOAT16))
    nodes[4].attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    nodes[3].input.append("half")
    case.model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([0.5]), "single"))
    nodes.insert(3, helper.make_node("Cast", ["single"], ["half"], name="fixed", to=TensorProto.BFLOAT16))
    found = reduce_model(case, Inside(lambda ops, feeds: int("Add" in ops)))
    graph = found.case.model.graph
    assert [n.op_type for n in graph.node] == ["Add"]
    assert graph.input[0].type.tensor_type.elem_type == TensorProto.BFLOAT16
    assert [t.data_type for t in graph.initializer] == [TensorProto.BFLOAT16]
    assert all(not r.deviates for r in judge(found.case.model, found.case.feeds))


def test_differs_is_judged_in_another_process() -> None:
    """With no tolerance at all something always differs from ONNX Runtime: it is brought down to one node."""
    found = reduce_model(perceptron(), differs("onnxruntime", 1e-12, 60), Same(match="deviates"))
    assert len(ops(found.case.model)) == 1
    with pytest.raises(ConfigError, match="agrees"):
        reduce_model(perceptron(), differs("reference", None, 60), Same(match="deviates"))


def test_build_errors() -> None:
    case = chain("Relu", "Neg", "Abs")
    case.model.graph.node[2].op_type = "NoSuchOperator"
    found = reduce_model(case, refuses(60), Same(match="NoSuchOperator"))
    assert ops(found.case.model) == ["NoSuchOperator"]
    # nothing can run this model, so what lies before the node is made up
    assert any("cannot be computed" in s and "random" in s for s in found.steps)
    assert found.case.feeds["v1"].dtype == np.float32


def test_command_line(temper: Run, tmp_path: Path) -> None:
    case = chain("Relu", "Exp", "Neg", "Abs")
    onnx.save(case.model, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", **case.feeds)
    check = script(tmp_path / "c.py", "print('seen'); sys.exit(5 if 'Exp' in ops else 0)")
    args = ("debug", "reduce", tmp_path / "m.onnx", "-o", tmp_path / "repro", "--data", tmp_path / "x.npz")
    done = temper(*args, "--check", check, "--json")
    assert done.code == 0
    said = json.loads(done.out)
    assert said["nodes"] == [4, 1] and said["ops"] == ["Exp"] and said["outcome"] == "exit status 5"
    folder = tmp_path / "repro"
    assert sorted(p.name for p in folder.iterdir()) == ["README.txt", "config.json", "inputs.npz", "model.onnx"]
    config = json.loads((folder / "config.json").read_text())
    assert subprocess.run(config["command"], cwd=folder, check=False).returncode == 5
    assert config["versions"]["onnx"] == onnx.__version__
    assert " ".join(config["command"]) in (folder / "README.txt").read_text()
    assert temper(*args, "--check", check, "--fail-code", 6).code == 1
    assert "give one of" in temper(*args).err
    assert "choose from" in temper(*args, "--differs", "tensorrt").err
    assert "does not fail" in temper(*args, "--differs", "reference").err
    assert temper("debug", "check", tmp_path / "m.onnx", "--shape", "x=4x8").code == 0
    assert temper("debug", "check", tmp_path / "m.onnx", "--tolerance", 0, "--against", "onnxruntime").code in (0, 1)


def test_checks_run_on_the_device_that_is_named() -> None:
    """The commands that repeat them say which."""
    for check in (differs("reference", None, 60.0, device="cuda:7"), refuses(60.0, device="cuda:7")):
        assert check.command()[-2:] == ("--device", "cuda:7")
