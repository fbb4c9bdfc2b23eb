"""Every dense convolution of the benchmark networks alone: time, GFLOP/s and share of the FMA peak measured beside it.

``python benchmarks/conv_layers.py [resnet50 ...] [--isa avx512] [--threads 2] [--candidates 8] [--layer 3x3]``

Weights are cold: each call uses another copy, from a set larger than the caches. The time with T threads is that of
the slowest share, each run alone. Candidates take turns; the lower quartile of each one's times counts. Times are
processor time, so that other processes on the core do not count.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

if not __package__:  # Run as a script, only this folder is on the path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from temper.compile.cc import ISAS, compile_object, link
from temper.ir.types import TensorType
from temper.runtime.cpu import Library
from temper.tactics.base import Kernel, Params, Slot, Workload
from temper.tactics.cpu.conv import ConvGemm
from temper.tactics.epilogue import Epilogue, Instr, Operand

_COLD_BYTES = 64 << 20


@dataclass(frozen=True)
class Layer:
    """size: input height and width; after: "relu", "silu", "add" (residual, relu) or "none"; count: its uses."""

    size: int
    ic: int
    oc: int
    kernel: int
    stride: int
    after: str
    count: int = 1

    @property
    def name(self) -> str:
        stride = f" s{self.stride}" if self.stride > 1 else ""
        return f"{self.size}x{self.size}x{self.ic}-{self.oc} {self.kernel}x{self.kernel}{stride} {self.after}"

    @property
    def out(self) -> int:
        return (self.size + self.kernel // 2 * 2 - self.kernel) // self.stride + 1

    @property
    def flop(self) -> float:
        return 2.0 * self.out**2 * self.oc * self.kernel**2 * self.ic

    def workload(self, isa: str, threads: int) -> Workload:
        full = (True,) * 4
        operands = [Operand("float32", full)]
        instrs: list[Instr] = []
        if self.after == "add":
            operands.append(Operand("float32", full))
            instrs = [Instr("Add", (0, 1), "float32"), Instr("Relu", (2,), "float32")]
        elif self.after != "none":
            instrs = [Instr(self.after.capitalize(), (0,), "float32")]
        epilogue = Epilogue(tuple(operands), tuple(instrs), (len(operands) + len(instrs) - 1,))

        def f32(*shape: int) -> Slot:
            return Slot(TensorType("float32", shape))

        k, s, p = self.kernel, self.stride, self.kernel // 2
        attrs = (("channels_last", 1), ("dilations", (1, 1)), ("group", 1), ("pads", (p,) * 4), ("strides", (s, s)))
        inputs = (f32(1, self.size, self.size, self.ic), f32(k, k, self.ic, self.oc), f32(self.oc))
        outputs = (f32(1, self.out, self.out, self.oc),)
        return Workload("Conv", attrs, inputs, (False, True, True), outputs, epilogue, isa, threads)


def resnet50() -> Iterator[Layer]:
    yield Layer(224, 3, 64, 7, 2, "relu")
    ic, size = 64, 56
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        out = size // stride
        yield Layer(size, ic, width, 1, 1, "relu")
        yield Layer(size, width, width, 3, stride, "relu", 1 if stride > 1 else blocks)
        yield Layer(size, ic, 4 * width, 1, stride, "none")
        yield Layer(out, 4 * width, width, 1, 1, "relu", blocks - 1)
        if stride > 1:
            yield Layer(out, width, width, 3, 1, "relu", blocks - 1)
        yield Layer(out, width, 4 * width, 1, 1, "add", blocks)
        ic, size = 4 * width, out


def inverted_residuals(
    stages: tuple[tuple[int, int, int, int, int], ...], ic: int, size: int, after: str
) -> Iterator[Layer]:
    """The 1x1 convolutions of MobileNet blocks; a stage is (expansion, channels, repeats, stride, size after it)."""
    for expansion, oc, repeats, stride, _ in stages:
        for i in range(repeats):
            wide = ic * expansion
            if expansion > 1:
                yield Layer(size, ic, wide, 1, 1, after)
            size = -(-size // stride) if i == 0 else size
            yield Layer(size, wide, oc, 1, 1, "none")
            ic = oc


def mobilenetv2() -> Iterator[Layer]:
    yield Layer(224, 3, 32, 3, 2, "relu")
    stages = (
        (1, 16, 1, 1, 112),
        (6, 24, 2, 2, 56),
        (6, 32, 3, 2, 28),
        (6, 64, 4, 2, 14),
        (6, 96, 3, 1, 14),
        (6, 160, 3, 2, 7),
        (6, 320, 1, 1, 7),
    )
    yield from inverted_residuals(stages, 32, 112, "relu")
    yield Layer(7, 320, 1280, 1, 1, "relu")


def efficientnet_b0() -> Iterator[Layer]:
    yield Layer(224, 3, 32, 3, 2, "silu")
    stages = (
        (1, 16, 1, 1, 112),
        (6, 24, 2, 2, 56),
        (6, 40, 2, 2, 28),
        (6, 80, 3, 2, 14),
        (6, 112, 3, 1, 14),
        (6, 192, 4, 2, 7),
        (6, 320, 1, 1, 7),
    )
    yield from inverted_residuals(stages, 32, 112, "silu")
    yield Layer(7, 320, 1280, 1, 1, "silu")


def yolov8n() -> Iterator[Layer]:
    for size, ic, oc in ((640, 3, 16), (320, 16, 32), (160, 32, 64), (80, 64, 128), (40, 128, 256)):
        yield Layer(size, ic, oc, 3, 2, "silu")
    for size, c in ((160, 32), (80, 64), (40, 128), (20, 256)):
        yield Layer(size, c, c, 1, 1, "silu")
        yield Layer(size, c // 2, c // 2, 3, 1, "silu", 2)
        yield Layer(size, c * 2, c, 1, 1, "silu")
    yield Layer(80, 64, 80, 3, 1, "silu")
    yield Layer(80, 80, 80, 1, 1, "none")


NETWORKS = {f.__name__: f for f in (resnet50, mobilenetv2, efficientnet_b0, yolov8n)}

_PEAK = """
#include <stdint.h>
typedef float vf __attribute__((vector_size(4 * LANES)));
__attribute__((visibility("default"))) void peak(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  vf a[ACC], x = *(const vf *)p[0], y = x;
  for (int i = 0; i < ACC; i++) a[i] = x;
  for (int64_t n = 0; n < v[0]; n++) {
#pragma clang loop unroll(full)
    for (int i = 0; i < ACC; i++) a[i] = MULADD(a[i], x, y);
  }
  for (int i = 1; i < ACC; i++) a[0] += a[i];
  *(vf *)p[0] = a[0] * 0.0f;
}
"""


def aligned(count: int) -> np.ndarray:
    raw = np.zeros(count + 16, np.float32)
    start = -(raw.ctypes.data // 4) % 16
    return raw[start : start + count]


class Peak:
    """Multiply-adds on registers only: what the core can do at this moment."""

    def __init__(self, isa: str) -> None:
        lanes = ISAS[isa].lanes
        self.accumulators = 24 if lanes == 16 else 12
        muladd = "__builtin_elementwise_fma(a, b, c)" if isa != "portable" else "((a) * (b) + (c))"
        source = f"#define LANES {lanes}\n#define ACC {self.accumulators}\n#define MULADD(a, b, c) {muladd}\n" + _PEAK
        self.library = Library(link([compile_object(source, isa)]))
        self.call = caller(self.library.function("peak"))
        self.data, self.count = aligned(16), (ctypes.c_int64 * 1)(40_000)
        self.pointers = (ctypes.c_void_p * 1)(self.data.ctypes.data)
        self.flop = 2.0 * self.accumulators * lanes * self.count[0]

    def rate(self) -> float:
        start = time.thread_time()
        self.call(self.pointers, self.count, 0, 1)
        return self.flop / (time.thread_time() - start)


def caller(address: int) -> ctypes._CFunctionType:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32)(address)


class Candidate:
    """One compiled blocking with its own packed weights in many copies."""

    def __init__(self, w: Workload, params: Params, kernel: Kernel, code: bytes, shared: dict[str, np.ndarray]) -> None:
        self.params, self.threads = params, w.threads
        self.library = Library(code)
        self.call = caller(self.library.function(kernel.entries[0]))
        shapes = [s.type.shape for s in w.inputs if s is not None]
        rng = np.random.default_rng(0)
        constants = {i: rng.standard_normal(shapes[i]).astype(np.float32) for i in (1, 2)}  # type: ignore[arg-type]
        packed = ConvGemm().prepack(w, params, constants)
        self.copies: list[ctypes.Array[ctypes.c_void_p]] = []
        self.keep: list[np.ndarray] = []
        for _ in range(max(2, -(-_COLD_BYTES // packed[0].nbytes) if packed[0].nbytes > 1 << 20 else 48)):
            pointers = []
            for kind, i in kernel.args:
                if kind == "packed":
                    a = aligned(packed[i].size)
                    a[:] = packed[i]
                    self.keep.append(a)
                elif kind == "workspace":
                    a = shared.setdefault("workspace", aligned(16 << 20))
                    assert isinstance(kernel.workspace, int) and kernel.workspace <= a.nbytes
                else:
                    shape = shapes[0] if kind == "input" else w.outputs[0].type.shape
                    a = shared.setdefault(kind, aligned(int(np.prod(shape))))  # type: ignore[arg-type]
                pointers.append(a.ctypes.data)
            self.copies.append((ctypes.c_void_p * len(pointers))(*pointers))
        self.v = (ctypes.c_int64 * 1)()
        self.runs, self.times = 0, [[] for _ in range(w.threads)]  # type: list[list[float]]

    def run(self) -> None:
        for part, times in enumerate(self.times):
            pointers = self.copies[self.runs % len(self.copies)]
            self.runs += 1
            start = time.thread_time()
            self.call(pointers, self.v, part, self.threads)
            times.append(time.thread_time() - start)

    @property
    def seconds(self) -> float:
        return max(float(np.quantile(t, 0.25)) for t in self.times)


def measure(
    layer: Layer, isa: str, threads: int, count: int, peak: Peak, budget: float
) -> tuple[list[Candidate], float]:
    """Candidates, fastest first, and the FMA rate meanwhile."""
    w = layer.workload(isa, threads)
    tactic = ConvGemm()
    chosen = list(tactic.candidates(w))[:count]
    kernels = [tactic.generate(w, p, "conv") for p in chosen]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        codes = list(pool.map(lambda k: link([compile_object(k.source, isa)]), kernels))
    shared: dict[str, np.ndarray] = {}
    candidates = [Candidate(w, p, k, c, shared) for p, k, c in zip(chosen, kernels, codes, strict=True)]
    rates, rounds, end = [], 0, time.perf_counter() + budget * len(candidates)
    while rounds < 5 or time.perf_counter() < end:
        for c in candidates:
            c.run()
        rates.append(peak.rate())
        rounds += 1
    return sorted(candidates, key=lambda c: c.seconds), float(np.quantile(rates, 0.75))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[[], *NETWORKS], default=["resnet50"])
    parser.add_argument("--isa", choices=sorted(ISAS), default="avx512")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--candidates", type=int, default=8, help="how many of the ranked blockings to try")
    parser.add_argument("--layer", default="", help="only layers whose name contains this")
    parser.add_argument("--seconds", type=float, default=0.2, help="measuring time for each candidate")
    args = parser.parse_args()
    peak = Peak(args.isa)
    for network in args.networks:
        layers: dict[Layer, int] = {}
        for layer in NETWORKS[network]():
            one = Layer(layer.size, layer.ic, layer.oc, layer.kernel, layer.stride, layer.after)
            if args.layer in one.name:
                layers[one] = layers.get(one, 0) + layer.count
        print(f"{network}, {args.isa}, {args.threads} thread(s)")
        print(f"{'layer':34s} {'x':>2s} {'us':>8s} {'GFLOP/s':>8s} {'% peak':>7s}  rank  blocking")
        total = ideal = 0.0
        for layer, count in layers.items():
            ranked, rate = measure(layer, args.isa, args.threads, args.candidates, peak, args.seconds)
            best = ranked[0]
            params = list(ConvGemm().candidates(layer.workload(args.isa, args.threads)))
            text = " ".join(f"{k}={v}" for k, v in best.params)
            print(
                f"{layer.name:34s} {count:2d} {best.seconds * 1e6:8.1f} {layer.flop / best.seconds / 1e9:8.1f} "
                f"{100 * layer.flop / best.seconds / rate / args.threads:7.1f}  {params.index(best.params):4d}  {text}",
                flush=True,
            )
            total += best.seconds * count
            ideal += layer.flop / rate / args.threads * count
        print(f"total {total * 1e3:.2f} ms, at the peak rate {ideal * 1e3:.2f} ms ({100 * ideal / total:.1f} %)")


if __name__ == "__main__":
    main()
