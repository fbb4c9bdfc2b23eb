"""Every convolution and matrix product of the GPU benchmark models alone, beside cuDNN and cuBLAS in the same run.

    python -m benchmarks.gpu_products [--sets resnet50-int8-128,bert-fp16-32] [--effort 2] [--json FILE] [--cache FILE]

A set is model-precision-batch: resnet50 (int8, fp16), bert (large, sequence 128) and vit (B/16): int8, fp16, fp8. The
tuner compiles, checks and times Temper's kernels, epilogues included, as a build does: graphs of launches whose weights
are cold. Peers, through PyTorch, have no epilogue, and warm weights: cuDNN's FP16 convolution, cuBLAS's linear,
`_int_mm` and `_scaled_mm` with fast accumulation. Limits in the last column: bytes at 3 TB/s or operations at the
chip's rate, whichever takes longer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from temper.dtypes import storage
from temper.ir.dims import evaluate
from temper.ir.types import TensorType, itemsize
from temper.tactics.base import Slot, Workload
from temper.tactics.cuda.product_model import DEVICES
from temper.tactics.epilogue import Epilogue, Instr, Operand
from temper.tune.select import Task, Tuner
from temper.tune.timing_cache import TimingCache

_TYPES = {"int8": "int8", "fp16": "float16", "fp8": "float8e4m3fn"}
#: Heads of width, hidden and rows of an image or sequence, and layers.
_TRANSFORMERS = {"bert": (1024, 4096, 128, 24), "vit": (768, 3072, 197, 12)}


@dataclass(frozen=True)
class Layer:
    """count: how often the model has it. image: rows and columns of the input, 0 for a matrix product of `rows`."""

    name: str
    count: int
    workload: Workload
    rows: int
    terms: int
    channels: int
    image: tuple[int, int, int, int] = (0, 0, 0, 0)  # batch, size, kernel, stride

    @property
    def operations(self) -> int:
        return 2 * self.rows * self.terms * self.channels

    @property
    def bytes(self) -> int:
        """Every tensor once; of a strided 1x1 convolution only the pixels it reads."""
        w = self.workload
        kernel, stride = self.image[2:]
        read = stride * stride if kernel == 1 else 1
        tensors = [s.type for s in (*w.inputs[:2], *w.outputs) if s is not None]
        sizes = [evaluate(t.count, {}) * itemsize(t.dtype) for t in tensors]
        also = [o.dtype for o in w.epilogue.operands[1:] if o.kind == "full"]
        made = evaluate(w.outputs[0].type.count, {})
        return sizes[0] // read + sum(sizes[1:]) + sum(made * itemsize(d) for d in also)

    def limit(self, isa: str) -> float:
        d = DEVICES[isa]
        x = self.workload.inputs[0]
        assert x is not None
        return max(self.bytes / d.bandwidth, self.operations / d.flops(itemsize(x.type.dtype), False))


def epilogue(precision: str, rank: int, residual: bool, function: str) -> Epilogue:
    """Scale, residual and function as a build makes them, the result in the precision."""
    full, channel, scalar = (True,) * rank, (False,) * (rank - 1) + (True,), (False,) * rank
    half = (("to", "float16"),)
    wide = (("to", "float32"),)
    if precision != "int8":
        operands = [Operand("float32", full)] + [Operand("float16", full)] * residual
        steps = [Instr("Cast", (1,), "float32", wide), Instr("Add", (0, 2), "float32")] if residual else []
        steps += [Instr(function, (len(operands) + len(steps) - 1 if steps else 0,), "float32")] if function else []
        last = len(operands) + len(steps) - 1 if steps else 0
        steps.append(Instr("Cast", (last,), "float16", half))
        return Epilogue(tuple(operands), tuple(steps), (len(operands) + len(steps) - 1,))
    operands = [Operand("int32", full), Operand("float32", channel)]
    steps = [Instr("Cast", (0,), "float32", wide)]
    if residual and rank == 2:  # what follows is a normalisation, which reads halves
        operands.append(Operand("float16", full))
        steps += [Instr("Mul", (3, 1), "float32"), Instr("Cast", (2,), "float32", wide)]
        steps += [Instr("Add", (4, 5), "float32"), Instr("Cast", (6,), "float16", half)]
        return Epilogue(tuple(operands), tuple(steps), (7,))
    if residual:
        operands += [Operand("int8", full), Operand("int32", scalar, limit=65536.0), Operand("float32", scalar)]
    operands += [Operand("float32", scalar)] if function == "Gelu" else []
    n = len(operands)
    steps.append(Instr("Mul", (n, 1), "float32"))
    if residual:
        steps += [Instr("Cast", (2,), "int32", (("to", "int32"),)), Instr("Sub", (n + 2, 3), "int32")]
        steps += [Instr("Cast", (n + 3,), "float32", wide), Instr("Mul", (n + 4, 4), "float32")]
        steps.append(Instr("Add", (n + 1, n + 5), "float32"))
    if function == "Gelu":
        steps += [Instr("Gelu", (n + len(steps) - 1,), "float32"), Instr("Div", (n + len(steps), n - 1), "float32")]
    zero = -128 if rank == 4 else 0
    saturate = (("to", "int8"), ("zero_point", zero))
    steps.append(Instr("Saturate", (n + len(steps) - 1,), "int8", saturate))
    return Epilogue(tuple(operands), tuple(steps), (n + len(steps) - 1,))


def _slots(precision: str, x: tuple[int, ...], w: tuple[int, ...], out: tuple[int, ...], e: Epilogue) -> dict[str, Any]:
    dtype, bias = _TYPES[precision], "int32" if precision == "int8" else "float32"
    inputs = tuple(Slot(TensorType(dtype, shape)) for shape in (x, w))
    if precision == "int8" or len(x) == 4:
        inputs = (*inputs, Slot(TensorType(bias, (w[-1],))))
    outputs = (Slot(TensorType(e.dtype_of(e.results[0]), out)),)
    widened = () if precision == "int8" else (0, 1)
    constant = (False, *(True,) * (len(inputs) - 1))
    return {"inputs": inputs, "constant": constant, "outputs": outputs, "epilogue": e, "widened": widened}


def convolution(
    precision: str, batch: int, size: int, ic: int, oc: int, kernel: int, stride: int, add: bool
) -> Workload:
    e, out = epilogue(precision, 4, add, "Relu" if precision != "int8" else ""), -(-size // stride)
    attrs: tuple[tuple[str, Any], ...] = (
        ("channels_last", 1), ("dilations", (1, 1)), ("group", 1), ("pads", (kernel // 2,) * 4),
        ("strides", (stride, stride)),
    )  # fmt: skip
    if precision == "int8":
        attrs = (("bits", 25), *attrs, ("zero_point", 0 if ic < 4 else -128))
    shapes = (batch, size, size, ic), (kernel, kernel, ic, oc), (batch, out, out, oc)
    op = "ConvInt8" if precision == "int8" else "Conv"
    return Workload(op, attrs, isa="sm_90", **_slots(precision, *shapes, e))


def layers(model: str, precision: str, batch: int) -> Iterator[Layer]:
    """The distinct ones."""
    if model == "resnet50":
        shapes = [(224, 3, 64, 7, 2, 1, False)]
        width, size = 64, 56
        for middle, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            wide, small = 4 * middle, size // stride
            shapes += [
                (size, width, middle, 1, 1, 1, False), (size, middle, middle, 3, stride, 1, False),
                (small, middle, wide, 1, 1, blocks, True), (size, width, wide, 1, stride, 1, False),
                (small, wide, middle, 1, 1, blocks - 1, False), (small, middle, middle, 3, 1, blocks - 1, False),
            ]  # fmt: skip
            width, size = wide, small
        for h, ic, oc, k, s, count, add in shapes:
            w = convolution(precision, batch, h, ic, oc, k, s, add)
            rows = batch * (-(-h // s)) ** 2
            name = f"{h}x{h} {ic} -> {oc} {k}x{k}{' / 2' * (s > 1)}{' + residual' * add}"
            yield Layer(name, count, w, rows, k * k * ic, oc, (batch, h, k, s))
        return
    width, hidden, length, count = _TRANSFORMERS[model]
    for part, terms, channels, add, function in (
        ("qkv", width, 3 * width, False, ""), ("out + residual", width, width, True, ""),
        ("up, GELU", width, hidden, False, "Gelu"), ("down + residual", hidden, width, True, ""),
    ):  # fmt: skip
        e, rows = epilogue(precision, 2, add, function), batch * length
        slots = _slots(precision, (rows, terms), (terms, channels), (rows, channels), e)
        codes = precision == "int8"
        attrs: tuple[tuple[str, Any], ...] = (("zero_point", 0),) if codes else (("transA", 0), ("transB", 0))
        w = Workload("MatMulInt8" if codes else "MatMul", attrs, isa="sm_90", **slots)
        yield Layer(f"{part} {rows}x{terms}x{channels}", count, w, rows, terms, channels)


def task(layer: Layer, rng: np.random.Generator) -> Task:
    """With random weights; all scales are a thousandth, zero points -128."""
    constants = {}
    for i, slot in enumerate(layer.workload.inputs[1:], 1):
        assert slot is not None
        shape = tuple(evaluate(d, {}) for d in slot.type.shape)
        if slot.type.dtype in ("int8", "int32"):
            constants[i] = rng.integers(-127, 128, shape).astype(slot.type.dtype)
        elif slot.type.dtype == "float8e4m3fn":
            constants[i] = rng.integers(0x20, 0x38, shape).astype(storage("float8e4m3fn"))  # 0.06 to 1
        else:
            constants[i] = (rng.standard_normal(shape) * 0.05).astype(slot.type.dtype)
    out = [evaluate(d, {}) for d in layer.workload.outputs[0].type.shape]
    fixed = {
        i: np.full([n if m else 1 for n, m in zip(out, o.mask, strict=True)], 1e-3 if o.dtype == "float32" else -128)
        for i, o in enumerate(layer.workload.epilogue.operands)
        if i and o.kind != "full"
    }
    operands = layer.workload.epilogue.operands
    fixed = {i: a.astype(operands[i].dtype) for i, a in fixed.items()}
    return Task(layer.workload, constants, fixed, {}, layer.name)


def peer(layer: Layer, precision: str) -> Callable[[], Any]:
    """The vendor's product of the same shape, in FP16 where it has none."""
    import torch
    from torch.nn import functional

    batch, size, kernel, stride = layer.image
    if size:
        ic = layer.terms // kernel**2
        x = torch.randn(batch, ic, size, size, device="cuda").half().to(memory_format=torch.channels_last)
        w = torch.randn(layer.channels, ic, kernel, kernel, device="cuda").half().to(memory_format=torch.channels_last)
        return lambda: functional.conv2d(x, w, stride=stride, padding=kernel // 2)
    a, b = (torch.randn(n, layer.terms, device="cuda") for n in (layer.rows, layer.channels))
    if precision == "int8":
        a8, b8 = (v.mul(30).clamp(-127, 127).to(torch.int8) for v in (a, b))
        return lambda: torch._int_mm(a8, b8.t())
    if precision == "fp8":
        one, (e, f) = torch.ones((), device="cuda"), (v.to(torch.float8_e4m3fn) for v in (a, b))
        return lambda: torch._scaled_mm(e, f.t(), one, one, out_dtype=torch.half, use_fast_accum=True)
    h, g = a.half(), b.half()
    return lambda: functional.linear(h, g)


def seconds(call: Callable[[], Any], repeats: int = 20) -> float:
    """Median of replays of a graph of calls, per call."""
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        call()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(repeats):
                call()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        times = []
        for _ in range(12):
            marks[0].record()
            graph.replay()
            marks[1].record()
            stream.synchronize()
            times.append(marks[0].elapsed_time(marks[1]) / 1e3 / repeats)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", default="resnet50-int8-128,resnet50-int8-1,bert-fp16-128,bert-int8-128,bert-int8-1")
    parser.add_argument("--effort", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write results here, after every set")
    parser.add_argument("--cache", type=Path, help="timing cache with kernels compiled before; none if not given")
    args = parser.parse_args()
    import torch

    from temper.runtime.cuda.driver import Gpu
    from temper.target import CudaTarget

    torch.backends.cudnn.benchmark = True
    gpu, rng = Gpu(), np.random.default_rng(0)
    target = CudaTarget(gpu, "sm_90")
    folder = tempfile.TemporaryDirectory(prefix="temper-products-")
    cache = TimingCache(args.cache or Path(folder.name) / "times.sqlite")
    tuner = Tuner(target.tactics(), target.device(), str(target.fingerprint), cache, args.effort)
    result: dict[str, Any] = {
        "date": date.today().isoformat(), "device": gpu.name,
        "versions": {name: metadata.version(name) for name in ("torch", "triton")}, "sets": {},
    }  # fmt: skip
    for name in args.sets.split(","):
        model, precision, batch = name.split("-")
        found = list(layers(model, precision, int(batch)))
        chosen = tuner.choose([task(x, rng) for x in found])
        total = [0.0, 0.0, 0.0]
        rows: list[dict[str, Any]] = []
        print(f"\n{name}, {gpu.name}: us a layer, T/s, TB/s, peer, limit")
        for x in found:
            choice = chosen[x.workload.key]
            own, theirs, least = float(choice.seconds or 0), seconds(peer(x, precision)), x.limit("sm_90")
            total = [t + x.count * s for t, s in zip(total, (own, theirs, least), strict=True)]
            rates = f"{x.operations / own / 1e12:6.0f} {x.bytes / own / 1e12:5.2f}"
            times = f"{own * 1e6:7.1f} {rates} {theirs * 1e6:7.1f} {least * 1e6:6.1f}"
            print(f"{x.count:3d} x {x.name:36s} {times}  {choice.candidate.label}", flush=True)
            us = {key: round(1e6 * t, 2) for key, t in (("us", own), ("peer_us", theirs), ("limit_us", least))}
            rows.append({"name": x.name, "count": x.count, **us, "tactic": choice.candidate.label})
        print("sum in ms: ours {:.3f}, peer {:.3f}, limit {:.3f}".format(*(1e3 * t for t in total)), flush=True)
        sums = dict(zip(("ms", "peer_ms", "limit_ms"), (round(1e3 * t, 4) for t in total), strict=True))
        result["sets"][name] = {"layers": rows, **sums}
        if args.json:
            args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
