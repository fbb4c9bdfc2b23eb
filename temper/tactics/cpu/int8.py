"""Products of 8-bit codes accumulated in int32: convolutions and matrix products over packed weights.

The kernel is the float one's (templates/conv_gemm.c), its words four bytes where the CPU multiplies unsigned by signed
bytes (VNNI), and two int16 elsewhere: there inputs are widened as they are copied to panels, because the byte product
of older CPUs saturates at int16. Both are exact, so that every code level gives the same bits. Weights that are
differences of codes (int16, in [-255, 255]) take words of two int16 everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from temper.compile.cc import ISAS
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.conv_geometry import ConvShape, conv_shape
from temper.tactics.cpu.conv import Terms, conv_kernel, pack_bias, pack_words
from temper.tactics.cpu.render import STORED, anchor_declines
from temper.tactics.cpu.words import Product, WordProduct, matrix_shape
from temper.tactics.geometry import static

_INPUTS = {"uint8": "uint8_t", "int8": "int8_t"}


def _packs(s: ConvShape) -> bool:
    """Kernel rows of few channels, which would leave bytes of every pixel's last word unused, become runs of bytes."""
    dense = s.groups == 1 and s.dilations[1] == 1 and s.xld == s.icg
    return dense and s.icg % 4 != 0 and s.icg < 16 and s.kernel[1] > 1 and None not in (static(s.iw), static(s.ow))


def _product(w: Workload, s: ConvShape) -> Product:
    x, k = w.inputs[0], w.inputs[1]
    assert x is not None and k is not None
    bytewise = "avx512_vnni" in ISAS[w.isa].needs and k.type.dtype == "int8"
    per_word = 4 if bytewise else 2
    zero = w.attr("zero_point", 0)
    assert isinstance(zero, int)
    lanes = ISAS[w.isa].lanes
    packed = bytewise and len(w.inputs) < 4 and _packs(s)
    terms = Terms(
        "BYTES" if bytewise else "PAIRS",
        _INPUTS[x.type.dtype],
        s.icg,
        s.xld,
        zero,
        bytewise and x.type.dtype == "int8",
        sums=s.groups * (-(-s.ocg // lanes) * lanes) if len(w.inputs) > 3 else -1,
        packed=packed,
    )
    if packed:
        one_tap = replace(s, icg=-(-s.icg * s.kernel[1] // 4), kernel=(s.kernel[0], 1), packed=s.icg)
        return Product(one_tap, terms, per_word)
    return Product(replace(s, icg=-(-s.icg // per_word), xld=-(-s.xld // per_word)), terms, per_word)


def _declines(w: Workload) -> str | None:
    x, k = w.inputs[0], w.inputs[1]
    if x is None or k is None or x.type.dtype not in _INPUTS or k.type.dtype not in ("int8", "int16"):
        return "multiplies int8 or uint8 data by int8 weights, or int16 ones in [-255, 255]"
    if reason := anchor_declines(w.epilogue, "int32", STORED):
        return reason
    if not all(w.constant[1:3]):
        return "weights and bias must be constant to be packed"
    return None


class _Int8(WordProduct):
    def declines(self, w: Workload) -> str | None:
        return _declines(w)

    def product(self, w: Workload, s: ConvShape) -> Product:
        return _product(w, s)

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        refs: list[ArgRef] = [("input", 0), ("packed", 0), ("packed", 1)]
        if len(w.inputs) > 3:
            refs.append(("input", 3))
        return conv_kernel(self.geometry(w, params), w, entry, refs, 1, self.made(w).terms)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        p, g = self.made(w), self.geometry(w, params)
        s = p.shape
        taps = constants[1].reshape(s.kernel[0] * s.kernel[1], -1, s.groups * s.ocg)
        padded = np.zeros((len(taps), s.icg * p.per_word, s.groups * s.ocg), taps.dtype)
        padded[:, : taps.shape[1]] = taps
        # [K words, codes of a word, OC]; a word's codes lie together, its first at the lowest address
        codes = padded.reshape(s.k, p.per_word, -1).transpose(0, 2, 1)
        wide = np.ascontiguousarray(codes if p.per_word == 4 else codes.astype(np.int16))
        words = wide.view(np.int32)[..., 0]
        bias = np.zeros(s.groups * s.ocg, np.int64) if 2 not in constants else constants[2].astype(np.int64)
        # what the kernel's codes are more than the values they stand for
        offset = p.terms.zero_point + 128 * p.terms.flip
        sums = taps.astype(np.int64).sum(axis=(0, 1))
        if p.terms.sums < 0:
            return pack_words(g, words), pack_bias(g, (bias - offset * sums).astype(np.int32))
        both = [pack_bias(g, a.astype(np.int32)) for a in (bias, sums)]
        return pack_words(g, words), np.concatenate(both)


class ConvInt8(_Int8):
    """2-D convolutions of codes, dense or grouped."""

    name = "cpu.conv_int8"
    ops = frozenset({"ConvInt8"})

    def shape(self, w: Workload) -> ConvShape | str:
        return conv_shape(w)


class GemmInt8(_Int8):
    """a [..., M, K] times a constant b [K, N]."""

    name = "cpu.gemm_int8"
    ops = frozenset({"MatMulInt8"})

    def shape(self, w: Workload) -> ConvShape | str:
        return matrix_shape(w)
