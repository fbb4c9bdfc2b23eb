"""A depthwise convolution and the squeeze-excite of its result, applied, as one kernel: found, and right."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from temper.compile.triton import CUDA_ISAS, compile_cubin
from temper.config import BuildConfig
from temper.ir.graph import Graph, Value
from temper.partitioning import Partitioner
from temper.passes.manager import Log, run_passes
from temper.passes.pipeline import FLOAT, PIPELINE, quantizing
from temper.tactics.base import Workload
from temper.tactics.cuda.gates_applied import DepthwiseGated, GatesApplied
from temper.tactics.cuda.squeeze_excite import SqueezeExcite
from temper.target import target_of
from temper.tune.verify import make_problem, mismatch
from tests.passes.nets import Net
from tests.quantize.nets import recipe_of
from tests.tactics.cuda.guarded_run import guarded_run

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be interpreted", allow_module_level=True)

TACTIC = DepthwiseGated()


def block(net: Net, x: Value, channels: int, gate: str = "Sigmoid", kernel: int = 3, stride: int = 1) -> Value:
    """Expansion, depthwise convolution, gates, projection."""
    x = net("Silu", net.conv(x, channels, 1))
    x = net("Silu", net.conv(x, channels, kernel, stride=stride, group=channels))
    y = net("ReduceMean", x, axes=(2, 3), keepdims=1)
    y = net(gate, net.conv(net("Silu", net.conv(y, 5, 1)), channels, 1))
    return net.conv(net("Mul", x, y), 8, 1)


def gated(integer: bool, batch: int = 2, channels: int = 40, **shape: int | str) -> tuple[Workload, dict, dict]:  # type: ignore[type-arg]
    """The workload of the chain, its constants and those of its program."""
    net = Net(5)
    net.graph.set_outputs([block(net, net.input(batch, 3, 13, 11), channels, **shape)], ["y"])  # type: ignore[arg-type]
    config = BuildConfig(device="cuda:sm_90", precision="fp16", effort=0)
    target = target_of(config)
    partitioner = Partitioner(list(target.tactics()), target, config)
    passes = PIPELINE
    if integer:
        run_passes(net.graph, FLOAT)
        feeds = {"x": net.rng.standard_normal((batch, 3, 13, 11)).astype(np.float32)}
        passes = quantizing(recipe_of(net.graph, feeds).apply)
    graph: Graph = net.graph.copy()
    log = Log()
    run_passes(graph, partitioner.passes(passes))
    chains = partitioner.parts(graph, log, target.alignment).chains
    found = [part for part, _ in chains if TACTIC.accepts(part.workload) is None]
    assert len(found) == 1
    region = found[0].region
    constants = {i: v.const for i, v in enumerate(region.anchor_inputs) if v is not None and v.const is not None}
    operands = {i: v.const for i, v in enumerate(region.operands) if v.const is not None}
    full = {i: a.reshape((1,) * (4 - a.ndim) + a.shape) for i, a in operands.items()}
    return found[0].workload, constants, full


@pytest.mark.parametrize(
    ("integer", "shape"),
    [(True, {}), (True, {"kernel": 5, "stride": 2, "channels": 72}), (False, {"gate": "HardSigmoid", "batch": 1})],
)
def test_agrees_with_the_reference_of_its_parts(
    integer: bool, shape: dict[str, int | str], tmp_path: Path
) -> None:
    w, constants, full = gated(integer, **shape)  # type: ignore[arg-type]
    assert w.links[0].op == ("ConvInt8" if integer else "Conv")
    assert w.outputs[0].type.dtype == ("int8" if integer else "float16")
    problem = make_problem(w, constants, {}, operand_constants=full)
    # neighbouring codes, or halves
    assert all(np.median(b) <= (2 if integer else 0.005) for b in problem.bounds)
    several = TACTIC.candidates(w)
    for number, params in enumerate((several[0], several[-1])):
        kernel = TACTIC.generate(w, params, "gated")
        made = guarded_run(kernel, problem, TACTIC.prepack(w, params, constants), tmp_path / str(number))
        assert mismatch(made["output0"], problem.want[0], problem.bounds[0]) is None


@pytest.mark.parametrize("isa", CUDA_ISAS)
def test_compiles_without_spilling(isa: str) -> None:
    w, _, _ = gated(True, batch=1)
    kernel = TACTIC.generate(w, TACTIC.candidates(w)[0], "gated")
    assert [compile_cubin(source, isa).frame for source in kernel.sources] == [0, 0, 0]


def test_declines_with_a_reason() -> None:
    w, _, _ = gated(True)
    first, second = w.links
    assert TACTIC.accepts(replace(w, links=(first, first))) == (
        "computes a convolution and the gates of its result, applied"
    )
    assert TACTIC.accepts(replace(w, links=(replace(first, op="MaxPool"), second))) == (
        "sums what a convolution gives, not MaxPool"
    )
    alone = GatesApplied()
    assert alone.accepts(second) is None and alone.accepts(w) == "computes SqueezeExcite, not Chain"
    gates = replace(second, attrs=tuple((k, 0 if k == "apply" else v) for k, v in second.attrs))
    assert alone.accepts(gates) == "applies the gates it makes"
    assert SqueezeExcite().accepts(second) == "makes gates and does not apply them"
