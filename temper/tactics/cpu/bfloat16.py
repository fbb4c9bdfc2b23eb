"""Products of bfloat16 summed in float32: convolutions and matrix products over packed weights.

The kernel is the float one's (templates/conv_gemm.c). Where the CPU multiplies pairs of bfloat16 (AVX512_BF16), its
words are two of them; elsewhere the data are widened to float as they are copied to panels, so that every code level
computes the same op.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from temper.compile.cc import ISAS
from temper.reference.formats import bfloat16_to_float32
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.conv_geometry import ConvShape, conv_shape
from temper.tactics.cpu.conv import Terms, conv_kernel, pack_bias, pack_words
from temper.tactics.cpu.render import STORED, anchor_declines
from temper.tactics.cpu.words import Product, WordProduct, matrix_shape


def _product(w: Workload, s: ConvShape) -> Product:
    if "avx512_bf16" not in ISAS[w.isa].needs:
        return Product(s, Terms("FLOAT", "uint16_t", s.icg, s.xld, widened=True), 1)
    words = replace(s, icg=-(-s.icg // 2), xld=-(-s.xld // 2))
    return Product(words, Terms("HALVES", "uint16_t", s.icg, s.xld), 2)


def _declines(w: Workload) -> str | None:
    x, k = w.inputs[0], w.inputs[1]
    if x is None or k is None or {x.type.dtype, k.type.dtype} != {"bfloat16"}:
        return "multiplies bfloat16 by bfloat16"
    if reason := anchor_declines(w.epilogue, "float32", STORED):
        return reason
    if not all(w.constant[1:]):
        return "weights and bias must be constant to be packed"
    return None


class _Bfloat16(WordProduct):
    def declines(self, w: Workload) -> str | None:
        return _declines(w)

    def product(self, w: Workload, s: ConvShape) -> Product:
        return _product(w, s)

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        refs: list[ArgRef] = [("input", 0), ("packed", 0)]
        biased = _has_bias(w)
        if biased:
            refs.append(("packed", 1))
        return conv_kernel(self.geometry(w, params), w, entry, refs, int(biased), self.made(w).terms)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        p, g = self.made(w), self.geometry(w, params)
        s = p.shape
        taps = constants[1].reshape(-1, p.terms.channels, s.groups * s.ocg)
        if p.per_word == 2:
            padded = np.zeros((len(taps), s.icg * 2, s.groups * s.ocg), np.uint16)
            padded[:, : p.terms.channels] = taps
            # [K words, halves of a word, OC]: a word's first element at the lower address
            halves = padded.reshape(s.k, 2, -1).transpose(0, 2, 1)
            words = np.ascontiguousarray(halves).view(np.int32)[..., 0]
        else:
            words = bfloat16_to_float32(taps).reshape(s.k, -1)
        packed = pack_words(g, words)
        return (packed, pack_bias(g, constants[2].astype(np.float32))) if _has_bias(w) else (packed,)


def _has_bias(w: Workload) -> bool:
    return len(w.inputs) > 2 and w.inputs[2] is not None


class ConvBfloat16(_Bfloat16):
    """2-D convolutions, dense or grouped."""

    name = "cpu.conv_bfloat16"
    ops = frozenset({"ConvBfloat16"})

    def shape(self, w: Workload) -> ConvShape | str:
        return conv_shape(w)


class GemmBfloat16(_Bfloat16):
    """a [..., M, K] times a constant b [K, N]."""

    name = "cpu.gemm_bfloat16"
    ops = frozenset({"MatMulBfloat16"})

    def shape(self, w: Workload) -> ConvShape | str:
        return matrix_shape(w)
