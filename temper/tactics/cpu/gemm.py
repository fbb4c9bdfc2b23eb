"""Float matrix products: a constant right operand is packed at build time, any other at run time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import DimLike, ceil_div, product
from temper.tactics.base import ArgRef, Kernel, Params, Slot, Workload
from temper.tactics.conv_geometry import row_image
from temper.tactics.cpu.blocking import Blocking, Geometry, blockings, predict_seconds, register_tiles
from temper.tactics.cpu.conv import Terms, conv_kernel, decline_dtype, heavy_epilogue, pack_words
from temper.tactics.cpu.render import anchor_declines, epilogue_args, template_text, workload_epilogue_c
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.geometry import static


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
    if w.attr("transA", 0):
        return "the left operand is transposed: lowering makes that a Transpose"
    if static(w.outputs[0].type.shape[-1]) is None:
        return "the number of columns must be known at build time"
    if w.attr("transB", 0) == 0 and static(b.type.shape[-1]) is None:
        return "the right operand's columns must be known at build time"
    return None


class GemmPacked:
    """a [..., M, K] times a constant b [K, N], packed at build time (transB: b is [N, K])."""

    name = "cpu.gemm_packed"
    ops = frozenset({"MatMul"})
    packing = ("nb",)

    def accepts(self, w: Workload) -> str | None:
        if reason := decline_matmul(w):
            return reason
        b = w.inputs[1]
        if b is None or not w.constant[1]:
            return "the right operand must be constant to be packed"
        if static(b.type.shape[0]) is None or static(b.type.shape[1]) is None:
            return "a packed operand has a static shape"
        if 0 in b.type.shape:
            return "there is nothing to pack"
        if b.type.rank != 2:
            return f"packs one right operand, not a batch of them (rank {b.type.rank})"
        return None

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [
            b.params for b in sorted(blockings(row_image(w), w.isa, w.threads), key=lambda b: self.predict(w, b.params))
        ]

    def predict(self, w: Workload, params: Params) -> float:
        return predict_seconds(self._geometry(w, params), w.isa, w.threads, len(w.epilogue.instrs))

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        return conv_kernel(self._geometry(w, params), w, entry, [("input", 0), ("packed", 0)], 0)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        b = constants[1].T if w.attr("transB", 0) else constants[1]
        return (pack_words(self._geometry(w, params), b),)

    @staticmethod
    def _geometry(w: Workload, params: Params) -> Geometry:
        return Geometry(row_image(w), Blocking.of(params), ISAS[w.isa].lanes)


def matrices_of(slot: Slot) -> tuple[DimLike, ...]:
    return slot.type.shape[:-2]


def index_function(name: str, own: tuple[DimLike, ...], out: tuple[DimLike, ...], symbols: tuple[str, ...]) -> str:
    """C function from an output matrix's index to that of the operand's matrix broadcast to it."""
    lines, stride = [], "1"
    for i, size in enumerate(reversed(out)):
        axis = len(own) - 1 - i
        if axis >= 0 and own[axis] != 1:
            lines.append(f"  at += i % {c_dim(size, symbols)} * ({stride});")
            stride = f"{stride} * {c_dim(own[axis], symbols)}"
        lines.append(f"  i /= {c_dim(size, symbols)};")
    head = [f"INLINE int64_t {name}(int64_t i, const int64_t *v) {{", "  int64_t at = 0;", "  (void)v;"]
    return "\n".join([*head, *lines, "  return at;", "}", ""])


def rows_of(w: Workload) -> tuple[DimLike, DimLike]:
    """(output matrices, rows of each): rows of all matrices are one matrix's where B is shared by all."""
    a, b, out = w.inputs[0], w.inputs[1], w.outputs[0]
    assert a is not None and b is not None
    if product(matrices_of(b)) == 1 and product(matrices_of(a)) == product(matrices_of(out)):
        return 1, product(out.type.shape[:-1])
    return product(matrices_of(out)), out.type.shape[-2]


def runtime_product(
    w: Workload,
    entry: str,
    mr: int,
    nb: int,
    mrt: int,
    terms: Terms,
    per: int,
    macros: Mapping[str, int | str],
    template: str,
) -> Kernel:
    """The kernel of a product whose right operand is packed at each run (templates/matrices.h).

    mr, nb: register tile in rows and vectors.
    mrt: rows of the last tile, -1 if unknown or if all rows are copied.
    per: elements in a word.
    macros: what the template with the packing needs besides.
    """
    a, b, out = w.inputs[0], w.inputs[1], w.outputs[0]
    assert a is not None and b is not None
    symbols, lanes = w.symbols, ISAS[w.isa].lanes
    k, columns = a.type.shape[-1], static(out.type.shape[-1])
    assert columns is not None
    vectors, words, bias = -(-columns // lanes), ceil_div(k, per), int(terms.kind != "FLOAT")
    batch, rows = rows_of(w)
    b_count = product(matrices_of(b))
    args: list[ArgRef] = [("input", 0), ("input", 1), ("shared", 0), ("output", 0), *epilogue_args(w.epilogue)]
    workspace: DimLike = 0
    if mrt < 0:
        workspace = 4 * mr * (words + lanes + 48)
        args.append(("workspace", 0))
    own_a, own_b, leading = ((), (), ()) if batch == 1 else (matrices_of(a), matrices_of(b), matrices_of(out))
    text = defines({
        "ENTRY_PACK": f"{entry}_pack", "ENTRY": entry, **terms.defines, "PER": per, **macros,
        "ROWS_M": c_dim(rows, symbols), "COLS_K": c_dim(k, symbols), "COLS_N": columns,
        "BATCH": c_dim(batch, symbols), "B_COUNT": c_dim(b_count, symbols),
        "IMG_ROWS": c_dim(product(out.type.shape[1:-1]), symbols), "LDA": c_dim(a.row_stride or k, symbols),
        "OLD": out.row_stride or columns, "MR": mr, "MRT": f"({mrt})", "NB": nb, "NBT": vectors % nb,
        "NLT": columns - (vectors - 1) * lanes, "UK": 4, "PFL": 0, "EPI_LOOP": int(heavy_epilogue(w)), "BIAS": bias,
        "KBLOCKED": 0, "LATE": 0, "P_A": 0, "P_B": 1, "P_SHARED": 2, "P_OUT": 3, "P_WS": len(args) - 1,
    })  # fmt: skip
    source = "".join([
        template_text("vec.h", "vmath.h"), text,
        index_function("a_matrix", own_a, leading, symbols), index_function("b_matrix", own_b, leading, symbols),
        workload_epilogue_c(w, 4), template_text("tile.h", "matrices.h", template),
    ])  # fmt: skip
    shared = 4 * b_count * (words + bias) * (vectors * lanes)
    entries = (f"{entry}_pack", entry)
    return Kernel(source, entries, tuple(args), symbols, workspace, shared, in_place=terms.kind == "FLOAT")


class Gemm:
    """a [..., M, K] times any b [..., K, N] (transB: [..., N, K]), leading axes broadcast; b is packed at each run."""

    name = "cpu.gemm"
    ops = frozenset({"MatMul"})

    def accepts(self, w: Workload) -> str | None:
        if reason := decline_matmul(w):
            return reason
        return "the right operand is constant: it is packed at build time" if GemmPacked().accepts(w) is None else None

    def candidates(self, w: Workload) -> Sequence[Params]:
        columns, rows = static(w.outputs[0].type.shape[-1]), rows_of(w)[1]
        assert columns is not None
        vectors = -(-columns // ISAS[w.isa].lanes)
        tiles = register_tiles(w.isa, vectors, static(rows))
        params: list[Params] = [(("mr", mr), ("nb", nb)) for mr, nb in tiles]
        return sorted(params, key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        p = dict(params)
        batch, rows = rows_of(w)
        a, out = w.inputs[0], w.outputs[0]
        assert a is not None
        k, columns = static(a.type.shape[-1]) or 64, static(out.type.shape[-1]) or 64
        vectors = -(-columns // ISAS[w.isa].lanes)
        tiles = -(-(static(rows) or 64) // p["mr"]) * (static(batch) or 1)
        terms = sum(
            max(p["mr"] * n * (1.0 if w.isa == "portable" else 0.5), 4.0, (p["mr"] + n) * 0.5)
            for n in [p["nb"]] * (vectors // p["nb"]) + [vectors % p["nb"]] * (vectors % p["nb"] > 0)
        )
        packing = k * vectors * (16 if w.attr("transB", 0) else 2) * (static(batch) or 1)
        return (tiles * (k * terms + 30 * vectors) + packing) / w.threads / 3.8e9

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        p, b, symbols = dict(params), w.inputs[1], w.symbols
        assert b is not None
        known, last_b = static(rows_of(w)[1]), static(b.type.shape[-1])
        mrt = -1 if known is None else known % p["mr"]
        extra = f"({b.row_stride} - {c_dim(b.type.shape[-1], symbols)})" if b.row_stride not in (None, last_b) else "0"
        macros: dict[str, int | str] = {"LDB_EXTRA": extra, "TRANS_B": int(bool(w.attr("transB", 0)))}
        terms = Terms("FLOAT", "float", 1, 1)
        return runtime_product(w, entry, p["mr"], p["nb"], mrt, terms, 1, macros, "gemm.c")

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


#: Exported for the registry: the fallback last.
