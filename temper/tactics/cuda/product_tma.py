"""Persistent matrix products on a CUDA GPU, whose operands the tensor memory accelerator (TMA) copies to shared memory.

There are as many blocks as the chip has processors, or twice as many small ones. Each computes one tile after another,
and loads for the next while it stores the last. TMA reads tiles by descriptors, which each block makes from its
pointers as it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from temper.compile.triton import TritonSource
from temper.ir.dims import Dim, DimLike, opaque, product
from temper.ir.types import itemsize
from temper.tactics.base import Params, Workload
from temper.tactics.conv_geometry import ConvShape
from temper.tactics.cuda import register_tiles
from temper.tactics.cuda.conv import ConvImplicitGemm, GemmTiles, ImplicitGemm, Packed, Packing, pack, work_of
from temper.tactics.cuda.epilogue_triton import Parameter, epilogue_helpers
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.product_model import DEVICES, beside, streamed_blockings, streamed_seconds
from temper.tactics.cuda.product_text import (
    GROUPED,
    IMAGE,
    ORDERED,
    PLACE,
    Blocking,
    blocks,
    constants_added,
    finished,
    module_text,
    product_text,
    sizes_of,
)
from temper.tactics.geometry import static

#: Bytes of a descriptor in memory.
_DESCRIPTOR = 128
#: Bytes that rows of a tensor must be apart by multiples of.
_ROW = 16

#: The weights' descriptor, and how a tile of them is read.
_WEIGHTS = (
    "b_map = tl.make_tensor_descriptor(w, shape=[OC, IC], strides=[W_STRIDE, 1], block_shape=[BN, BK])",
    "b_map.load([column * BN, step * BK])",
)

_BODY = """\
a_map = tl.make_tensor_descriptor(x, shape=[ROWS, IC], strides=[X_STRIDE, 1], block_shape=[BM, BK])
{weights}
for tile in tl.range(tl.program_id(0), BLOCKS * COLUMNS, PROGRAMS, flatten=True):
{order}
    acc = tl.zeros((BM, BN), {sums})
    for step in range(0, STEPS):
        a = a_map.load([block * BM, step * BK])
        b = {read}
        acc = product(a, b.T, acc)
{finish}
"""


class _Streamed:
    """The pointwise products among those of another tactic, whose packing it shares."""

    name: str
    ops: frozenset[str]
    base: ImplicitGemm
    packing: tuple[str, ...] = ("direct",)

    def accepts(self, w: Workload) -> str | None:
        if (reason := self.base.accepts(w)) is not None:
            return reason
        if int(w.isa.removeprefix("sm_")) < 90:
            return f"{w.isa} has no engine that copies tiles"
        s, data = self.base.geometry(w), w.input_dtype(0)
        size = itemsize(data)
        if not s.flat:
            return "computes products of single pixels only, without stride or padding"
        if data == "uint8":
            return "multiplies signed codes only: unsigned ones are shifted in registers"
        if size == 4 and not w.tf32:
            return "computes on tensor cores, which do not multiply float32"
        if s.xld * size % _ROW:
            return f"rows {s.xld * size} bytes apart are not multiples of {_ROW}"
        if not self.candidates(w):
            return "the product is too small for its tiles"
        return None

    def candidates(self, w: Workload) -> Sequence[Params]:
        s, size = self.base.geometry(w), itemsize(w.input_dtype(0))
        found = streamed_blockings(s, size, w.isa)
        if w.isa == register_tiles.ISA and s.ocg % max(1, register_tiles.part(w)) == 0:
            direct = streamed_blockings(s, size, w.isa, 1)
            fitting = [b for b in direct if register_tiles.fits(w, b.bm, b.bn, b.warps)]
            found += [replace(b, direct=register_tiles.BY_COPY) if _by_copy(w, b) else b for b in fitting]
        return sorted((b.params for b in found), key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        return streamed_seconds(self.base.geometry(w), Blocking.of(params), work_of(w), w.isa)

    def generate(self, w: Workload, params: Params, entry: str) -> TritonKernel:
        s, b = self.base.geometry(w), Blocking.of(params)
        data = w.input_dtype(0)
        size = itemsize(data)
        pointers = [*self.base.parameters(w), Parameter("descriptors", "*i8", ("shared", 0))]
        signature = (*((p.name, p.type) for p in pointers), *((f"dim_{name}", "i32") for name in w.symbols))
        names = [name for name, _ in signature]
        programs = _programs(s, b, w.isa)
        sizes: dict[str, DimLike] = {
            **sizes_of(s, b, size), "PROGRAMS": DEVICES[w.isa].processors * beside(b), "STEPS": b.steps(s),
            "PART": register_tiles.part(w),
        }  # fmt: skip
        order, rest = (GROUPED if s.ocg > b.bn and b.group > 1 else ORDERED) + PLACE, finished(w, s)
        if b.direct:
            part = register_tiles.part(w)
            named, rest = register_tiles.epilogue(rest, "acc", b.bn, part)
            order += f"n = tl.minimum(column * BN + {register_tiles.columns('BN', part)}, OC - 1)\n" + named
        weights, read = register_tiles.WEIGHTS if b.direct == register_tiles.BY_COPY else _WEIGHTS
        body = _BODY.format(
            weights=weights,
            read=read,
            order=_inner(order + IMAGE),
            sums="tl.int32" if data == "int8" else "tl.float32",
            finish=_inner(constants_added(s, names) + rest),
        )
        about = f"{s.icg} to {s.ocg} channels of every row: tiles of {b.bm}x{b.bn}x{b.bk}, copied."
        helpers = product_text(data, w.tf32).rstrip() + "\n" + epilogue_helpers(w.epilogue)
        text = module_text(about, entry, names, sizes, body, helpers)
        source = TritonSource(
            text, entry, signature, frozenset(p.name for p in pointers), b.warps, b.stages, scratch=2 * _DESCRIPTOR,
            late=data == "int8",
        )  # fmt: skip
        return TritonKernel(
            text,
            (entry,),
            tuple(p.ref for p in pointers),
            w.symbols,
            shared_workspace=product((programs, 2 * _DESCRIPTOR)),
            in_place=len(w.epilogue.results) == 1,
            triton=source,
            grid=programs,
        )

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        """As the base packs, but for weights whose order is to leave channels where they are stored from."""
        function, about, given = self.packs(w, params)
        return function(about, *(constants[i] for i in given))

    def packs(
        self, w: Workload, params: Params
    ) -> tuple[Callable[..., Packed], tuple[Packing, int], tuple[int, ...]]:
        """As `tactics.base.packed` asks."""
        _, about, given = self.base.packs(w, params)
        ordered = dict(params).get("direct", 0) == register_tiles.BY_PACKING
        return _pack, (about, register_tiles.part(w) if ordered else 0), given


class ConvStreamed(_Streamed):
    """1x1 Conv and ConvInt8."""

    name = "cuda.conv_tma"
    ops = ConvImplicitGemm.ops
    base = ConvImplicitGemm()


class GemmStreamed(_Streamed):
    """a [..., M, K] times a constant b [K, N], of floats or signed codes."""

    name = "cuda.gemm_tma"
    ops = GemmTiles.ops
    base = GemmTiles()


def _by_copy(w: Workload, b: Blocking) -> bool:
    """Whether the copy engine puts weights in order, so that all kernels of a product share them: on an H100 as fast
    for halves in tiles no higher than wide, 4 to 9 % slower in others, and up to 5 % for codes."""
    return w.op == "MatMul" and itemsize(w.input_dtype(0)) == 2 and b.bm <= b.bn


def _pack(about: tuple[Packing, int], weights: np.ndarray, added: np.ndarray | None = None) -> Packed:
    """See `_Streamed.prepack`. about: with the channels of a part of a tile, if they are put in order."""
    packed, *rest = pack(about[0], weights, added)
    if about[1]:
        packed = packed[register_tiles.ordered_columns(len(packed), about[1])]
    return packed, *rest


def _programs(s: ConvShape, b: Blocking, isa: str) -> DimLike:
    """Blocks launched."""
    tiles, processors = blocks(s, b), DEVICES[isa].processors * beside(b)
    return opaque("min", tiles, processors) if isinstance(tiles, Dim) else min(static(tiles) or 1, processors)


def _inner(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())
