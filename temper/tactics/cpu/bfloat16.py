"""Products of bfloat16 summed in float32: convolutions and matrix products over packed weights.

The kernel is the float one's (templates/conv_gemm.c). Where the CPU multiplies pairs of bfloat16 (AVX512_BF16), its
words are two of them; elsewhere the data are widened to float as they are copied to panels, so that every code level
computes the same op.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from temper.compile.cc import ISAS
from temper.reference.formats import bfloat16_to_float32
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.cpu.blocking import Blocking, ConvShape, Geometry, blockings, predict_seconds, static
from temper.tactics.cpu.conv import Terms, conv_kernel, conv_shape, pack_bias, pack_words
from temper.tactics.cpu.gemm import row_image
from temper.tactics.cpu.render import STORED, anchor_declines


@dataclass(frozen=True)
class _Product:
    """shape: geometry with input channels in words; channels: elements of a group; paired: two of them in a word."""

    shape: ConvShape
    terms: Terms
    paired: bool

    @property
    def in_place(self) -> bool:
        """Pixels are whole words of the kernel's own form."""
        return self.paired and self.terms.channels % 2 == 0 and self.terms.xld % 2 == 0


def _product(w: Workload, s: ConvShape) -> _Product:
    if "avx512_bf16" not in ISAS[w.isa].needs:
        return _Product(s, Terms("FLOAT", "uint16_t", s.icg, s.xld, widened=True), False)
    words = replace(s, icg=-(-s.icg // 2), xld=-(-s.xld // 2))
    return _Product(words, Terms("HALVES", "uint16_t", s.icg, s.xld), True)


def _declines(w: Workload) -> str | None:
    x, k = w.inputs[0], w.inputs[1]
    if w.isa not in ISAS:
        return f"no such CPU level: {w.isa}"
    if x is None or k is None or {x.type.dtype, k.type.dtype} != {"bfloat16"}:
        return "multiplies bfloat16 by bfloat16"
    if reason := anchor_declines(w.epilogue, "float32", STORED):
        return reason
    if not all(w.constant[1:]):
        return "weights and bias must be constant to be packed"
    return None


class _Bfloat16:
    """What convolution and matrix product have in common."""

    name: str
    ops: frozenset[str]
    packing = ("nb",)

    def shape(self, w: Workload) -> ConvShape | str:
        """Geometry with channels in elements, or why there is none."""
        raise NotImplementedError

    def accepts(self, w: Workload) -> str | None:
        if w.op not in self.ops:
            return f"computes {', '.join(sorted(self.ops))}, not {w.op}"
        if reason := _declines(w):
            return reason
        s = self.shape(w)
        return s if isinstance(s, str) else None

    def _made(self, w: Workload) -> _Product:
        s = self.shape(w)
        if isinstance(s, str):
            raise ValueError(f"workload was not accepted: {s}")
        return _product(w, s)

    def _geometry(self, w: Workload, params: Params) -> Geometry:
        return Geometry(self._made(w).shape, Blocking.of(params), ISAS[w.isa].lanes)

    def candidates(self, w: Workload) -> Sequence[Params]:
        p = self._made(w)
        found = blockings(p.shape, w.isa, w.threads, p.in_place)
        return [b.params for b in sorted(found, key=lambda b: self.predict(w, b.params))]

    def predict(self, w: Workload, params: Params) -> float:
        return predict_seconds(self._geometry(w, params), w.isa, w.threads, len(w.epilogue.instrs))

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        refs: list[ArgRef] = [("input", 0), ("packed", 0)]
        biased = _has_bias(w)
        if biased:
            refs.append(("packed", 1))
        return conv_kernel(self._geometry(w, params), w, entry, refs, int(biased), self._made(w).terms)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        p, g = self._made(w), self._geometry(w, params)
        s = p.shape
        taps = constants[1].reshape(-1, p.terms.channels, s.groups * s.ocg)
        if p.paired:
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
        a, b = w.inputs[0], w.inputs[1]
        assert a is not None and b is not None
        if a.type.rank < 2 or b.type.rank != 2:
            return f"packs one right operand of rank 2, not {b.type.rank}"
        if static(b.type.shape[0]) is None or static(b.type.shape[1]) is None or 0 in b.type.shape:
            return "a packed operand has a static shape and is not empty"
        return row_image(w)
