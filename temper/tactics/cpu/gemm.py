"""Float matrix products: a packed constant right operand (templates/conv_gemm.c as a 1x1 convolution)."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import product
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.conv import (
    Blocking,
    ConvShape,
    Geometry,
    blockings,
    conv_kernel,
    decline_dtype,
    pack_weights,
    predict_seconds,
    static,
)
from temper.tactics.cpu.render import anchor_declines


def decline_matmul(w: Workload) -> str | None:
    """Why no CPU matrix product computes the workload; None if one can."""
    if w.op != "MatMul":
        return f"computes MatMul, not {w.op}"
    if w.isa not in ISAS:
        return f"no such CPU level: {w.isa}"
    if reason := decline_dtype(w) or anchor_declines(w.epilogue):
        return reason
    a, b = w.inputs[0], w.inputs[1]
    if a is None or b is None or a.type.rank < 2 or b.type.rank < 2:
        return "a matrix product needs two operands of rank 2 or more"
    if static(w.outputs[0].type.shape[-1]) is None:
        return "the number of columns must be known at build time"
    return None


class GemmPacked:
    """a [..., M, K] times a constant b [K, N], packed at build time (transB: b is [N, K])."""

    name = "cpu.gemm_packed"

    def accepts(self, w: Workload) -> str | None:
        if reason := decline_matmul(w):
            return reason
        b = w.inputs[1]
        if b is None or not w.constant[1]:
            return "the right operand must be constant to be packed"
        if b.type.rank != 2:
            return f"packs one right operand, not a batch of them (rank {b.type.rank})"
        return None

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [b.params for b in sorted(blockings(_row_image(w), w.isa, w.threads), key=lambda b: self.predict(w, b.params))]

    def predict(self, w: Workload, params: Params) -> float:
        return predict_seconds(self._geometry(w, params), w.isa, w.threads, len(w.epilogue.instrs))

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        return conv_kernel(self._geometry(w, params), w, entry, [("input", 0), ("packed", 0)], 0)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        b = constants[1].T if w.attr("transB", 0) else constants[1]
        return (pack_weights(self._geometry(w, params), b),)

    @staticmethod
    def _geometry(w: Workload, params: Params) -> Geometry:
        return Geometry(_row_image(w), Blocking.of(params), ISAS[w.isa].lanes)


def _row_image(w: Workload) -> ConvShape:
    """All rows of the product as the pixels of one image of height 1."""
    a, out = w.inputs[0], w.outputs[0]
    assert a is not None
    k, n = static(a.type.shape[-1]), static(out.type.shape[-1])
    assert k is not None and n is not None
    rows = product(a.type.shape[:-1])
    return ConvShape(1, 1, rows, 1, rows, k, n, 1, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), a.row_stride or k, out.row_stride or n,
                     product(out.type.shape[1:-1]))
