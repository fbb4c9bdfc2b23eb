"""Products whose kernel multiplies words of several narrow elements (tile.h): what those of codes and of bfloat16
share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from temper.compile.cc import ISAS
from temper.tactics.base import Params, Workload
from temper.tactics.conv_geometry import ConvShape, row_image
from temper.tactics.cpu.blocking import BAND, Blocking, Geometry, blockings, predict_seconds
from temper.tactics.cpu.conv import Terms
from temper.tactics.geometry import static


@dataclass(frozen=True)
class Product:
    """shape: geometry with input channels in words; per_word: elements in a word."""

    shape: ConvShape
    terms: Terms
    per_word: int

    @property
    def in_place(self) -> bool:
        """Pixels are whole words of the kernel's own form."""
        t = self.terms
        return t.kind in ("BYTES", "HALVES") and t.channels % self.per_word == 0 and t.xld % self.per_word == 0


class WordProduct:
    """A convolution or matrix product over packed weights."""

    name: str
    ops: frozenset[str]
    packing = ("nb",)

    def shape(self, w: Workload) -> ConvShape | str:
        """Geometry with channels in elements, or why there is none."""
        raise NotImplementedError

    def declines(self, w: Workload) -> str | None:
        """Why the operands' types, or the program, are none of this product's."""
        raise NotImplementedError

    def product(self, w: Workload, s: ConvShape) -> Product:
        """Geometry and words at the workload's code level."""
        raise NotImplementedError

    def accepts(self, w: Workload) -> str | None:
        if w.op not in self.ops:
            return f"computes {', '.join(sorted(self.ops))}, not {w.op}"
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        if reason := self.declines(w):
            return reason
        s = self.shape(w)
        return s if isinstance(s, str) else None

    def candidates(self, w: Workload) -> Sequence[Params]:
        p = self.made(w)
        found = blockings(p.shape, w.isa, w.threads, p.in_place)
        return [b.params for b in sorted(found, key=lambda b: self.predict(w, b.params))]

    def predict(self, w: Workload, params: Params) -> float:
        return predict_seconds(self.geometry(w, params), w.isa, w.threads, len(w.epilogue.instrs))

    def made(self, w: Workload) -> Product:
        """The product of an accepted workload; ValueError for any other."""
        s = self.shape(w)
        if isinstance(s, str):
            raise ValueError(f"workload was not accepted: {s}")
        return self.product(w, s)

    def geometry(self, w: Workload, params: Params) -> Geometry:
        p, b = self.made(w), Blocking.of(params)
        if b.mode == BAND and b.kc < p.shape.k:
            # chosen for the sizes it is tuned at, where its words are packed more densely: a band is not cut in depth
            b = replace(b, kc=p.shape.k)
        return Geometry(p.shape, b, ISAS[w.isa].lanes)


def matrix_shape(w: Workload) -> ConvShape | str:
    """Geometry of a [..., M, K] times a constant b [K, N], or why there is none."""
    a, b = w.inputs[0], w.inputs[1]
    assert a is not None and b is not None
    if a.type.rank < 2 or b.type.rank != 2:
        return f"packs one right operand of rank 2, not {b.type.rank}"
    if static(b.type.shape[0]) is None or static(b.type.shape[1]) is None or 0 in b.type.shape:
        return "a packed operand has a static shape and is not empty"
    return row_image(w)
