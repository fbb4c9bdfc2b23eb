"""Discrete Fourier transforms of any length along any axis (templates/dft.c): n times the sum of n's prime factors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from temper.ir.dims import product
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.direct import Direct, array_c
from temper.tactics.cpu.instructions import C_TYPES
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.fourier import roots_of_unity
from temper.tactics.geometry import typical_count


def factors(n: int) -> list[int]:
    """The prime factors of n, smallest first, pairs of twos joined to fours."""
    out, p = [], 2
    while n > 1:
        if n % 4 == 0:
            out.append(4)
            n //= 4
        elif n % p == 0:
            out.append(p)
            n //= p
        else:
            p = p + 1 if p * p <= n else n
    return out


class FourierTransform(Direct):
    """Stockham's mixed-radix algorithm in double, one line at a time."""

    name = "cpu.dft"
    ops = frozenset({"DFT"})

    def declines(self, w: Workload) -> str | None:
        dtype = w.outputs[0].type.dtype
        return None if dtype in ("float32", "float64") else f"computes float32 and float64, not {dtype}"

    def predict(self, w: Workload, params: Params) -> float:
        steps = sum(factors(int(str(w.attr("length"))))) + 4
        return 1e-6 + typical_count(w.outputs[0].type.shape) * steps * 1e-9 / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x, y = w.inputs[0], w.outputs[0].type
        assert x is not None
        n, axis = int(str(w.attr("length"))), int(str(w.attr("axis"))) % y.rank
        text = defines(
            {
                "ENTRY": entry,
                "T": C_TYPES[y.dtype],
                "N": n,
                "FACTORS": array_c(factors(n) or [1]),
                "STAGES": len(factors(n)),
                "INVERSE": str(w.attr("inverse", 0)),
                "MIRRORED": int(bool(w.attr("inverse", 0) and w.attr("onesided", 0))),
                "PARTS": str(x.type.shape[-1]),
                "OUT_PARTS": str(y.shape[-1]),
                "GIVEN": c_dim(x.type.shape[axis], w.symbols),
                "RESULTS": c_dim(y.shape[axis], w.symbols),
                "OUTER": c_dim(product(y.shape[:axis]), w.symbols),
                "INNER": c_dim(product(y.shape[axis + 1 : -1]), w.symbols),
            }
        )
        source = template_text("vec.h") + text + template_text("dft.c")
        args = (("input", 0), ("packed", 0), ("output", 0), ("workspace", 0))
        return Kernel(source, (entry,), args, w.symbols, 32 * n)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return (roots_of_unity(int(str(w.attr("length")))),)
