"""Patterns, rules and the pass manager."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from temper.errors import ConfigError, VerificationError
from temper.ir.graph import Graph, Value
from temper.ir.ops import make
from temper.ir.text import parse
from temper.passes.manager import Log, Pass, run_passes
from temper.passes.pipeline import PIPELINE
from temper.passes.rewrite import Any_, Const, Match, Rule, apply_rules, match, only_user, op
from tests.passes.nets import Net, check, ops

X, Y = Any_("x"), Any_("y")


def test_the_same_name_is_the_same_value() -> None:
    net = Net()
    x, y = net.input(2), net.input(2, name="y")
    assert match(op("Mul", X, op("Sigmoid", X)), net("Mul", net("Sigmoid", x), x)) == {"x": x}
    assert match(op("Mul", X, op("Sigmoid", X)), net("Mul", net("Sigmoid", x), y)) is None


def test_only_commutative_ops_swap() -> None:
    net = Net()
    x, c = net.input(2), net.const(2.0)
    assert match(op("Add", X, Const("c")), net("Add", c, x)) == {"x": x, "c": c}
    assert match(op("Sub", X, Const("c")), net("Sub", c, x)) is None


def test_constants_near_a_number() -> None:
    net = Net()
    x = net.input(3)
    for value, near, fits in [(1 / 6, 0.16667, True), ([6.0, 6.0, 6.0], 6.0, True), ([6.0, 6.0, 5.0], 6.0, False)]:
        found = match(op("Mul", X, Const(near=near)), net("Mul", x, net.const(value)))
        assert (found is not None) == fits
    assert match(op("Mul", X, Const(near=1.0)), net("Mul", x, net.input(3, name="y"))) is None


def test_attributes_and_binding() -> None:
    net = Net()
    y = net("LeakyRelu", net("Relu", net.input(3)), alpha=0.1)
    inner = y.producer.inputs[0] if y.producer else None
    assert match(op("LeakyRelu", op("Relu", X, bind="r"), alpha=0.1), y, {})["r"] is inner  # type: ignore[index]
    assert match(op("LeakyRelu", X, alpha=0.2), y) is None


def test_second_outputs_do_not_match() -> None:
    net = Net()
    a, b = net.many("Split", net.input(4), axis=0, sizes=(2, 2))
    assert match(op("Relu", op("Split", X)), net("Relu", a)) is not None
    assert match(op("Relu", op("Split", X)), net("Relu", b)) is None


def test_reasons_and_origins() -> None:
    def rewrite(graph: Graph, m: Match) -> Value:
        return make(graph, "Abs", [m["x"]]).output

    def refuse(graph: Graph, m: Match) -> str | None:
        return only_user(m["x"], graph)

    net = Net()
    x = net.input(2)
    graph = net.done(net("Relu", x), net("Neg", net("Relu", net("Exp", x))))
    rules = [Rule("swap", op("Relu", X), rewrite, refuse)]
    log = Log()
    assert apply_rules(graph, rules, log) == 1
    assert log.declined[0][0] == "swap" and log.declined[0][2].endswith("has 2 readers")
    (new,) = [n for n in graph.nodes if n.op == "Abs"]
    assert new.origin[-1] == "rule:swap" and new.origin[0].startswith("Relu")


def test_a_replacement_of_another_type_is_refused() -> None:
    net = Net()
    graph = net.done(net("Add", net.input(3, 1), net.const(np.zeros((3, 4), np.float32))))
    log = Log()
    assert apply_rules(graph, [Rule("add-0", op("Add", X, Const(near=0.0)), lambda g, m: m["x"])], log) == 0
    assert "the replacement would be float32[3, 1]" in log.declined[0][2]
    assert ops(graph) == ["Add"]


def test_dumps_are_numbered_and_read_back(tmp_path: Path) -> None:
    net = Net()
    graph = net.done(net("Relu", net("Identity", net("Relu", net.input(2, 3)))))
    run_passes(graph, PIPELINE, dump=tmp_path / "dump")
    names = sorted(p.name for p in (tmp_path / "dump").iterdir())
    assert names[0] == "00-import.txt"
    assert names[1:] == [f"{i:02}-{p.name}.txt" for i, p in enumerate(PIPELINE, 1)]
    assert ops(parse((tmp_path / "dump" / names[0]).read_text())) == ["Relu", "Identity", "Relu"]
    assert parse((tmp_path / "dump" / names[-1]).read_text()).hash() == graph.hash()


def test_stop_after(tmp_path: Path) -> None:
    net = Net()
    graph = net.done(net.conv(net.input(1, 3, 4, 4), 2, 3))
    run_passes(graph, PIPELINE, dump=tmp_path, stop_after=PIPELINE[1].name)
    assert len(list(tmp_path.iterdir())) == 3 and ops(graph) == ["Conv"]
    with pytest.raises(ConfigError, match="no pass is called 'nonsense'; the passes are: fake-quantize, "):
        run_passes(graph, PIPELINE, stop_after="nonsense")


def test_the_verifier_runs_after_every_pass() -> None:
    def wreck(graph: Graph, log: Log) -> None:
        graph.nodes[0].inputs[0] = None

    net = Net()
    graph = net.done(net("Relu", net.input(2)))
    with pytest.raises(VerificationError):
        run_passes(graph, (Pass("wreck", wreck), Pass("never", lambda g, log: pytest.fail("it went on"))))


def test_pass_names_are_unique() -> None:
    names = [p.name for p in PIPELINE]
    assert len(names) == len(set(names))


def test_the_pipeline_is_idempotent() -> None:
    net = Net()
    x = net.conv(net.input(1, 3, 8, 8), 8, 3)
    y = net(
        "Mul",
        net("BatchNormalization", x, *(net.const(np.ones(8, np.float32)) for _ in range(4))),
        net.weights(8, 1, 1),
    )
    after, _ = check(net.done(net("Mul", y, net("Sigmoid", y))), PIPELINE)
    again, log = check(after, PIPELINE)
    assert again.hash() == after.hash()
