"""A small plan assembled by hand: what the runtime and the file format are tested on without the builder.

x [N, 16] -> mix (two entries: doubles into the arena, then adds the mirrored row) -> dense (16 -> 8, bias, relu) -> y
[N, 8].
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from temper.compile.cc import compile_object, link
from temper.compile.host import host_library
from temper.plan.format import (
    ArenaBuffer,
    Binding,
    Copy,
    HostStep,
    Launch,
    Native,
    Plan,
    Profile,
    Ref,
    TypedRef,
)
from temper.runtime import machine

SOURCE = r"""
#include <stdint.h>
#define EXPORT __attribute__((visibility("default")))
static int64_t from(int64_t n, int32_t part, int32_t parts) { return n * part / parts; }

/* p: x, doubled (arena), t (arena). Row 0 of t needs the last row of doubled: the entries need the barrier between
them. */ EXPORT void mix_0(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const float *x = p[0]; float *d = p[1];
  for (int64_t i = from(v[0] * 16, part, parts); i < from(v[0] * 16, part + 1, parts); i++) d[i] = 2 * x[i];
}
EXPORT void mix_1(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const float *d = p[1]; float *t = p[2]; int64_t n = v[0] * 16;
  for (int64_t i = from(n, part, parts); i < from(n, part + 1, parts); i++) t[i] = d[i] + d[n - 1 - i];
}

/* p: t, weights [16, 8], bias [8], y, this thread's scratch (8 floats), null. */
EXPORT void dense(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const float *t = p[0], *w = p[1], *b = p[2]; float *y = p[3], *sum = p[4];
  if (p[5]) return;
  for (int64_t r = from(v[0], part, parts); r < from(v[0], part + 1, parts); r++) {
    for (int o = 0; o < 8; o++) sum[o] = b[o];
    for (int k = 0; k < 16; k++) for (int o = 0; o < 8; o++) sum[o] += t[r * 16 + k] * w[k * 8 + o];
    for (int o = 0; o < 8; o++) y[r * 8 + o] = sum[o] > 0 ? sum[o] : 0;
  }
}

/* p: x, y. One element each; counts how often it ran beyond any optimiser's reach. */
EXPORT void increment(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const float *x = p[0]; float *y = p[1];
  for (int64_t i = from(v[0], part, parts); i < from(v[0], part + 1, parts); i++) y[i] = x[i] + 1;
}
EXPORT void mxcsr(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  ((uint32_t *)p[0])[part] = __builtin_ia32_stmxcsr();
}
"""

WEIGHTS = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
BIAS = np.linspace(-1, 1, 8, dtype=np.float32)


@cache
def kernels() -> bytes:
    return link([compile_object(SOURCE, "portable")])


def constants() -> bytes:
    """weights at 0, bias at 512."""
    return WEIGHTS.tobytes() + BIAS.tobytes() + bytes(32)


X, Y = Ref("input", 0), Ref("output", 0)


def expected(x: np.ndarray) -> np.ndarray:
    """The model in numpy, in the kernels' order of operations."""
    d = (2 * x).reshape(-1)
    t = (d + d[::-1]).reshape(x.shape)
    y = np.broadcast_to(BIAS, (len(x), 8)).copy()
    for k in range(16):
        y += t[:, k : k + 1] * WEIGHTS[k]
    return np.maximum(y, 0)


def launches(parts: int, source: Ref = X, result: Ref = Y) -> tuple[Launch, ...]:
    return (
        Launch(
            ("mix_0", "mix_1"),
            (source, Ref("arena", 0), Ref("arena", 1)),
            ("N",),
            parts,
            name="mix",
            writes=(1, 2),
            report=0,
        ),
        Launch(
            ("dense",),
            (Ref("arena", 1), Ref("const"), Ref("const", 0, 512), result, Ref("workspace"), Ref("null")),
            ("N",),
            parts,
            name="dense",
            writes=(3, 4),
            report=1,
        ),
    )


def make_plan(parts: int = 2, threads: int = 2, **changes: Any) -> Plan:
    """The plan; `changes` replace fields."""
    small, large = 8, 64
    fields: dict[str, Any] = {
        "fingerprint": machine.fingerprint(),
        "isa": "portable",
        "needs": (),
        "threads": threads,
        "inputs": (Binding("x", "float32", ("N", 16)),),
        "outputs": (Binding("y", "float32", ("N", 8)),),
        "profiles": tuple(
            Profile({"N": (low, opt, high)}, (0, high * 64), high * 128, 32)
            for low, opt, high in ((0, 1, small), (9, 32, large))
        ),
        "buffers": (ArenaBuffer("doubled", "N*64", 0, 0), ArenaBuffer("t", "N*64", 0, 1)),
        "programs": ((Native(launches(parts)),),),
        "constants": constants(),
        "kernels": kernels(),
        "host": host_library(),
        "report": {"layers": [{"name": "mix"}, {"name": "dense"}]},
    }
    return Plan(**{**fields, **changes})


def trivial_plan(n: int = 1, parts: int = 1, threads: int = 1) -> Plan:
    """y = x + 1 on n floats."""
    return make_plan(
        threads=threads,
        inputs=(Binding("x", "float32", (n,)),),
        outputs=(Binding("y", "float32", (n,)),),
        profiles=(Profile({}, (), 0),),
        buffers=(),
        programs=((Native((Launch(("increment",), (Ref("input"), Ref("output")), (str(n),), parts, name="add"),)),),),
    )


def host_plan() -> Plan:
    """y = relu of the model's mix without the dense layer, by a host step between two native segments; outputs that
    are copies.
    """
    mixed = launches(2)[0]
    t = TypedRef(Ref("arena", 1), "float32", ("N", 16))
    u = TypedRef(Ref("arena", 0), "float32", ("N", 16))
    last = Launch(("increment",), (Ref("arena", 0), Ref("output", 0)), ("N*16",), 2, name="add", writes=(1,))
    return make_plan(
        outputs=(
            Binding("y", "float32", ("N", 16)),
            Binding("same", "float32", ("N", 16)),
            Binding("x_again", "float32", ("N", 16)),
            Binding("bias", "float32", (8,)),
            Binding("where", "int64", (2, "found")),
        ),
        programs=(
            (
                Native((mixed,)),
                HostStep("Relu", {}, (t,), (u,), "tested here", "relu"),
                Native((last,)),
                HostStep(
                    "NonZero",
                    {},
                    (TypedRef(Ref("input", 0), "float32", ("N", 16)),),
                    (TypedRef(Ref("host", 0), "int64", (2, "found")),),
                    "its size depends on data",
                    "nonzero",
                ),
            ),
        ),
        buffers=(ArenaBuffer("doubled", "N*64", 0, 2), ArenaBuffer("t", "N*64", 0, 1)),
        copies=(
            Copy(1, Ref("output", 0)),
            Copy(2, Ref("input", 0)),
            Copy(3, Ref("const", 0, 512)),
            Copy(4, Ref("host", 0)),
        ),
    )
