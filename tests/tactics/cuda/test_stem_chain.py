"""A network's first layers as one kernel: found in networks, and what they give apart."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from temper.compile.triton import CUDA_ISAS, compile_cubin
from temper.config import BuildConfig
from temper.partitioning import Partitioner
from temper.passes.chains import Chain
from temper.passes.manager import Log, run_passes
from temper.passes.pipeline import FLOAT, PIPELINE, quantizing
from temper.tactics.base import Params, Workload
from temper.tactics.cuda.stem_chain import ConvFewChannelsChain
from temper.target import target_of
from temper.tune.verify import make_problem, mismatch
from tests.passes.nets import Net
from tests.quantize.nets import recipe_of
from tests.tactics.cuda.guarded_run import guarded_run

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be interpreted", allow_module_level=True)

TACTIC = ConvFewChannelsChain()

#: Images, height, width and channels of the input; channels and window of the convolution; window and padding of the
#: maximum.
Shape = tuple[int, int, int, int, int, int, int, int]
RESNET: Shape = (2, 31, 33, 3, 64, 7, 3, 1)


def stems(integer: bool, shape: Shape, isa: str = "sm_90") -> dict[tuple[str, ...], tuple[Workload, Chain]]:
    """The chains of a network's first layers, by their anchors."""
    n, height, width, channels, features, kernel, window, pad = shape
    net = Net(5)
    x = net("Relu", net.conv(net.input(n, channels, height, width), features, kernel, stride=2))
    x = net.conv(net.pool(x, "MaxPool", window, 2, pad), 8, 1)
    net.graph.set_outputs([x], ["y"])
    config = BuildConfig(device=f"cuda:{isa}", precision="fp16", effort=0)
    target = target_of(config)
    partitioner = Partitioner(list(target.tactics()), target, config)
    passes = PIPELINE
    if integer:
        run_passes(net.graph, FLOAT)
        feeds = {"x": net.rng.standard_normal((n, channels, height, width)).astype(np.float32)}
        passes = quantizing(recipe_of(net.graph, feeds).apply)
    graph, log = net.graph.copy(), Log()
    run_passes(graph, partitioner.passes(passes))
    out = {}
    for part, _ in partitioner.parts(graph, log, target.alignment).chains:
        assert isinstance(part.region, Chain)
        if TACTIC.accepts(part.workload) is None:
            out[tuple(link.op for link in part.region.links)] = (part.workload, part.region)
    return out


def wrong(w: Workload, chain: Chain, params: Params, folder: Path) -> str | None:
    """What the interpreter's results differ in from the reference of the parts."""
    constants = {i: v.const for i, v in enumerate(chain.anchor_inputs) if v is not None and v.const is not None}
    operands = {i: v.const for i, v in enumerate(chain.operands) if v.const is not None}
    full = {i: a.reshape((1,) * (4 - a.ndim) + a.shape) for i, a in operands.items()}
    problem = make_problem(w, constants, {}, operand_constants=full)
    assert problem.want[0].astype(np.float32).std() > 0
    if w.outputs[0].type.dtype == "int8":
        assert not problem.bounds[0].any()
    else:
        assert problem.bounds[0].max() < 0.02 * np.abs(problem.want[0]).max()
    kernel = TACTIC.generate(w, params, "stem")
    made = guarded_run(kernel, problem, TACTIC.prepack(w, params, constants), folder)
    return mismatch(made["output0"], problem.want[0], problem.bounds[0])


@pytest.mark.parametrize("integer", [True, False])
def test_first_layers_are_one_kernel(integer: bool, tmp_path: Path) -> None:
    conv = "ConvInt8" if integer else "Conv"
    found = stems(integer, RESNET)
    assert set(found) == {("Transpose", conv), (conv, "MaxPool"), ("Transpose", conv, "MaxPool")}
    for number, (w, chain) in enumerate(found.values()):
        several = TACTIC.candidates(w)
        for k, params in enumerate(several if len(w.links) == 3 else several[-1:]):
            assert wrong(w, chain, params, tmp_path / f"{number} {k}") is None


@pytest.mark.parametrize(
    ("integer", "shape"),
    [
        (True, (1, 37, 26, 3, 64, 7, 3, 0)),  # a window's first column is another image column's second
        (True, (1, 30, 27, 3, 24, 3, 2, 0)),  # no columns are shared; fewer channels than a tile's
        (True, (2, 22, 26, 4, 64, 3, 2, 1)),
        (False, (1, 37, 26, 3, 96, 3, 3, 1)),  # tiles of two halves, the second half empty in the last
        (False, (1, 22, 27, 1, 32, 7, 3, 1)),
    ],
)
def test_windows_of_many_kinds(integer: bool, shape: Shape, tmp_path: Path) -> None:
    found = stems(integer, shape)  # planes of one channel need no transposition
    w, chain = found[max((k for k in found if k[-1] == "MaxPool"), key=len)]
    several = TACTIC.candidates(w)
    for k, params in enumerate((several[0], several[-1])):
        assert wrong(w, chain, params, tmp_path / str(k)) is None


@pytest.mark.parametrize("isa", CUDA_ISAS)
def test_compiles(isa: str) -> None:
    for integer in (True, False):
        w, _ = next(v for k, v in stems(integer, RESNET, isa).items() if len(k) == 3)
        kernel = TACTIC.generate(w, next(p for p in TACTIC.candidates(w) if dict(p)["down"] == 1), "stem")
        fold, second = (compile_cubin(source, isa).frame for source in kernel.sources)
        # before sm_90 halves of weights wait for their products in registers
        assert fold == 0 and second <= (128 if isa < "sm_9" and isa != "sm_100" and not integer else 0)


def test_declines_with_a_reason() -> None:
    w, _ = next(v for k, v in stems(True, RESNET).items() if len(k) == 3)
    turn, conv, pool = w.links

    def attrs(link: Workload, **changed: object) -> Workload:
        return replace(link, attrs=tuple((k, changed.get(k, v)) for k, v in link.attrs))  # type: ignore[misc]

    def reason(*links: Workload) -> str | None:
        return TACTIC.accepts(replace(w, links=links))

    assert reason(turn, conv, pool) is None
    assert TACTIC.accepts(conv) == "computes chains, not ConvInt8"
    assert "one convolution" in str(reason(conv, conv)) and "one convolution" in str(reason(turn, pool))
    assert reason(attrs(turn, perm=(0, 3, 2, 1)), conv) == "folds planes of channels"
    assert "1024 values" in str(reason(turn, attrs(conv, strides=(16, 16))))
    assert "move by 2" in str(reason(conv, attrs(pool, strides=(1, 1))))
    assert "move by 2" in str(reason(conv, attrs(pool, dilations=(2, 2))))
    assert "padded" in str(reason(conv, attrs(pool, pads=(2, 2, 2, 2))))
    assert "strided windows without dilation" in str(reason(attrs(conv, strides=(1, 1)), pool))
    assert "strided windows without dilation" in str(reason(attrs(conv, dilations=(2, 2)), pool))
