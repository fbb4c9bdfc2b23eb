"""The whole road on a network with one layer that INT8 would ruin: it is found, kept, reported, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from temper.config import BuildConfig
from temper.plan.format import Plan
from temper.precision.build import Made, build_int8
from temper.precision.request import Request
from temper.runtime.context import LayerTime
from temper.runtime.engine import Engine
from tests.commands import Run
from tests.precision.conftest import pictures

SIZE = 8


def planted(factor: float = 300.0, batch: int | str = 1) -> onnx.ModelProto:
    """Convolutions a, b, c and a classifier. One channel between a and b is `factor` times as large as it need be, and
    b's weights for it as much smaller: in float nothing changes, but the other channels' codes vanish."""
    rng = np.random.default_rng(5)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def constant(name: str, array: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def node(op: str, inputs: list[str], output: str, **attrs: object) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attrs))
        return output

    x, width = "image", 3
    for name in "abc":
        w = rng.standard_normal((16, width, 3, 3)) / np.sqrt(9 * width / 2)
        b = 0.1 * rng.standard_normal(16)
        if name == "a":
            w[0] *= factor
            b[0] *= factor
        if name == "b":
            w[:, 0] /= factor
        x = node("Conv", [x, constant(f"w{name}", w), constant(f"b{name}", b)], name, pads=[1] * 4)
        x, width = node("Relu", [x], f"relu_{name}"), 16
    x = node("Flatten", [node("GlobalAveragePool", [x], "pool")], "flat")
    node("Gemm", [x, constant("wf", 12 * rng.standard_normal((10, 16))), constant("bf", np.zeros(10))], "scores",
         transB=1)  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 10])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


TEST = pictures(200, SIZE, seed=9)


def answers(engine: Engine) -> np.ndarray:
    return np.array([int(np.argmax(engine.run([x[None]])[0])) for x in TEST])


def _layer_times(engine: Engine, feeds: object, repeats: int = 1) -> list[LayerTime]:
    """Times by operations, integer ones a quarter of float ones."""
    rows = engine.report["regions"]
    seconds = [(2.5e-10 if "Int8" in r["op"] else 1e-9) * (r["operations"] + 1) for r in rows]
    return [LayerTime(r["name"], t, i, False) for i, (r, t) in enumerate(zip(rows, seconds, strict=True))]


def _engine_times(
    plans: Mapping[frozenset[str], Plan], feeds: object, seconds: float = 1.0, device: str = "cpu"
) -> dict[object, float]:
    return {k: sum(x.seconds for x in _layer_times(Engine(p), feeds)) for k, p in plans.items()}


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of microseconds: measured times would decide by chance what stays in float."""
    monkeypatch.setattr(Engine, "profile_layers", _layer_times)
    monkeypatch.setattr("temper.precision.costs.timed", _engine_times)
    monkeypatch.setattr("temper.precision.build.timed", _engine_times)


@pytest.fixture
def build(quick: BuildConfig, tmp_path: Path) -> Callable[..., Made]:
    def run(model: onnx.ModelProto, **options: object) -> Made:
        given = {"calibration": pictures(64, SIZE), "work": tmp_path, "compensate": False, **options}
        return build_int8(model, quick, Request(**given), say=lines.append)  # type: ignore[arg-type]

    lines: list[str] = []
    run.lines = lines  # type: ignore[attr-defined]
    return run


def kept(made: Made) -> set[str]:
    return {s.name for s in made.outcome.sites if s.precision != "int8"}


def test_a_harmless_network_is_all_int8(build: Callable[..., Made]) -> None:
    made = build(planted(factor=1.0))
    assert made.outcome.met and not kept(made)
    assert made.outcome.work is not None and made.outcome.work.passes == 2


def test_the_planted_layer_is_kept_without_labels(build: Callable[..., Made]) -> None:
    made = build(planted())
    assert made.outcome.met and kept(made) == {"b"}
    (site,) = [s for s in made.outcome.sites if s.name == "b"]
    assert "of what all layers lose" in site.why
    assert site.sensitivity == max(s.sensitivity or 0 for s in made.outcome.sites)
    assert made.outcome.work is not None and made.outcome.work.passes <= 12
    points = made.outcome.points
    assert {p.kind for p in points} == {"float", "tried", "chosen"}
    assert all(p.ms for p in points if p.kind in ("float", "chosen"))
    summary = made.build.plan.report["int8"]
    assert summary["met"] and {k["name"] for k in summary["kept"]} == kept(made)


def test_pure_int8_keeps_nothing(build: Callable[..., Made]) -> None:
    made = build(planted(), pure_int8=True)
    assert not kept(made) and made.outcome.budget.kind == "none"


def test_a_metric_decides(build: Callable[..., Made], quick: BuildConfig) -> None:
    from temper.builder import build_plan

    truth = answers(Engine(build_plan(planted(), quick).plan))
    scores: list[float] = []

    def agreement(engine: Engine) -> float:
        scores.append(float(np.mean(answers(engine) == truth)))
        return scores[-1]

    made = build(planted(), evaluate=agreement, max_drop=0.05)
    assert scores[0] == 1.0 and scores[1] < 0.95, "the float engine, then everything in INT8"
    assert made.outcome.met and kept(made) == {"b"}
    chosen = made.outcome.point("chosen")
    assert chosen is not None and chosen.metric is not None and chosen.metric >= 0.95
    assert len(scores) <= 12


def test_the_drop_that_nobody_stated_is_recorded(build: Callable[..., Made]) -> None:
    def constant(engine: Engine) -> float:
        return 50.0

    made = build(planted(factor=1.0), evaluate=constant)
    assert made.outcome.met and made.outcome.budget.bound == pytest.approx(0.003 * 50)
    assert made.outcome.verdict.endswith("constant 50 where FP32 has 50 (+0; it may drop by 0.15)")


def test_a_budget_that_cannot_be_met_names_who_is_to_blame(build: Callable[..., Made]) -> None:
    made = build(planted(), keep=("b=int8",))
    assert not made.outcome.met
    assert "NOT MET" in made.outcome.verdict and "to blame: b" in made.outcome.verdict
    assert "b" not in kept(made)
    assert any("not met" in w for w in made.outcome.warnings)


def test_an_interrupted_search_repeats_nothing(build: Callable[..., Made]) -> None:
    calls: list[int] = []

    def score(engine: Engine) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        regions = [r["op"] for r in engine.report["regions"]]
        return 1.0 - 0.1 * regions.count("ConvInt8")

    with pytest.raises(KeyboardInterrupt):
        build(planted(), evaluate=score, max_drop=0.15)
    made = build(planted(), evaluate=score, max_drop=0.15)
    assert made.outcome.met
    first = len(calls)
    again = build(planted(), evaluate=score, max_drop=0.15)
    assert len(calls) == first, "everything was known"
    assert kept(again) == kept(made)


def test_nothing_to_quantize(build: Callable[..., Made]) -> None:
    made = build(planted(), keep=("*=fp32",))
    assert made.recipe is None and "pinned" in made.outcome.verdict
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "plain", [x], [y])
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made = build(plain, calibration=np.ones((4, 4), np.float32))
    assert made.recipe is None and "nothing in this model can be INT8" in made.outcome.verdict
    np.testing.assert_array_equal(Engine(made.build.plan).run([np.float32([[-1, 2, -3, 4]])])[0], [[0, 2, 0, 4]])


def test_constant_data_and_dead_channels(build: Callable[..., Made]) -> None:
    """Zeros everywhere: tensors without any range."""
    made = build(planted(factor=1.0), calibration=np.zeros((8, 3, SIZE, SIZE), np.float32))
    assert np.isfinite(Engine(made.build.plan).run([TEST[:1]])[0]).all()


def test_several_profiles_share_one_search(build: Callable[..., Made], quick: BuildConfig, tmp_path: Path) -> None:
    from dataclasses import replace

    config = replace(quick, batches=((1, 1, 1), (2, 4, 8)))
    made = build_int8(planted(batch="n"), config, Request(pictures(32, SIZE), work=tmp_path, compensate=False))
    assert kept(made) == {"b"}
    engine = Engine(made.build.plan)
    one = np.concatenate([engine.run([x[None]])[0] for x in TEST[:4]])
    np.testing.assert_allclose(engine.run([TEST[:4]])[0], one, atol=1e-3)


def test_exit_code_of_a_budget_that_is_not_met(temper: Run, tmp_path: Path) -> None:
    onnx.save(planted(), tmp_path / "m.onnx")
    np.savez(tmp_path / "c.npz", image=pictures(32, SIZE))
    (tmp_path / "eval.py").write_text(
        "def score(engine):\n    return 1.0 - 0.1 * sum('Int8' in r['op'] for r in engine.report['regions'])\n"
    )
    options = ["--int8", "--calib", tmp_path / "c.npz", "--keep", "b=int8", "--effort", 0, "--threads", 1]
    options += ["--eval", f"{tmp_path}/eval.py:score", "--max-drop", 5]
    done = temper("build", tmp_path / "m.onnx", "-o", tmp_path / "m.plan", *options)
    assert done.code == 3 and (tmp_path / "m.plan").exists()
    assert "NOT MET" in done.out and "not met" in done.err
    fine = temper("build", tmp_path / "m.onnx", "-o", tmp_path / "n.plan", *options[:-1], 10, "-q")
    assert (fine.code, fine.out, fine.err) == (0, "", "")


@pytest.mark.parametrize("passes", [3.0, 4.0, 6.0, 9.0])
def test_passes_are_never_exceeded(build: Callable[..., Made], passes: float) -> None:
    """With few of them more stays in float, and the budget is kept all the same."""
    made = build(planted(), calibration=pictures(48, SIZE), passes=passes, compensate=False)
    work = made.outcome.work
    assert work is not None and work.passes <= passes + 0.05
    assert made.outcome.met
