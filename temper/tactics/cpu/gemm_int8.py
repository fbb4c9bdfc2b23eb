"""Products of codes whose right operand is known only at run time (templates/gemm_int8.c): batches, broadcast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import DimLike, ceil_div, product
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.cpu.blocking import register_tiles, static
from temper.tactics.cpu.conv import Terms, heavy_epilogue
from temper.tactics.cpu.gemm import index_function, matrices_of, rows_of
from temper.tactics.cpu.int8 import GemmInt8
from temper.tactics.cpu.render import STORED, anchor_declines, epilogue_args, template_text, workload_epilogue_c
from temper.tactics.cpu.source import c_dim, defines

_INPUTS = {"uint8": "uint8_t", "int8": "int8_t"}
_TYPICAL = 64


class GemmInt8Batched:
    """a [..., M, K] less its zero point times any int8 b [..., K, N]. b is packed at each run, rows of a per tile."""

    name = "cpu.gemm_int8_batched"
    ops = frozenset({"MatMulInt8"})

    def accepts(self, w: Workload) -> str | None:
        if w.op != "MatMulInt8":
            return f"computes MatMulInt8, not {w.op}"
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        a, b = w.inputs[0], w.inputs[1]
        if a is None or b is None or a.type.dtype not in _INPUTS or b.type.dtype != "int8":
            return "multiplies int8 or uint8 data by int8"
        if any(s is not None for s in w.inputs[2:]):
            return "adds no bias, and knows its zero point at build time"
        if a.type.rank < 2 or b.type.rank < 2:
            return "a matrix product needs two operands of rank 2 or more"
        if static(w.outputs[0].type.shape[-1]) is None:
            return "the number of columns must be known at build time"
        if reason := anchor_declines(w.epilogue, "int32", STORED):
            return reason
        return "the right operand is constant: it is packed at build time" if GemmInt8().accepts(w) is None else None

    def candidates(self, w: Workload) -> Sequence[Params]:
        columns = static(w.outputs[0].type.shape[-1])
        assert columns is not None
        tiles = register_tiles(w.isa, -(-columns // ISAS[w.isa].lanes), static(rows_of(w)[1]))
        params: list[Params] = [(("mr", mr), ("nb", nb)) for mr, nb in tiles]
        return sorted(params, key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        p, (batch, rows) = dict(params), rows_of(w)
        a, out = w.inputs[0], w.outputs[0]
        assert a is not None
        per, lanes = self._per_word(w), ISAS[w.isa].lanes
        k, columns = (static(s.type.shape[-1]) or _TYPICAL for s in (a, out))
        vectors, count, words = -(-columns // lanes), static(batch) or 1, -(-k // per)
        tiles = -(-(static(rows) or _TYPICAL) // p["mr"]) * count
        per_word = sum(
            max(p["mr"] * n * (1.0 if w.isa == "portable" else 0.5), 4.0, (p["mr"] + n) * 0.5)
            for n in [p["nb"]] * (vectors // p["nb"]) + [vectors % p["nb"]] * (vectors % p["nb"] > 0)
        )
        cycles = tiles * (words * per_word + 40 * vectors + p["mr"] * k / 8) + words * vectors * 4 * per * count
        return 5e-7 + cycles / w.threads / 3.8e9

    @staticmethod
    def _per_word(w: Workload) -> int:
        return 4 if "avx512_vnni" in ISAS[w.isa].needs else 2

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        p = dict(params)
        a, b, out = w.inputs[0], w.inputs[1], w.outputs[0]
        assert a is not None and b is not None
        symbols, lanes, per = w.symbols, ISAS[w.isa].lanes, self._per_word(w)
        k, columns, zero = a.type.shape[-1], static(out.type.shape[-1]), w.attr("zero_point", 0)
        assert columns is not None and isinstance(zero, int)
        vectors, mr, nb = -(-columns // lanes), p["mr"], p["nb"]
        batch, rows = rows_of(w)
        turn = per == 4 and a.type.dtype == "int8"
        b_count, words = product(matrices_of(b)), ceil_div(k, per)
        args: list[ArgRef] = [("input", 0), ("input", 1), ("shared", 0), ("output", 0), *epilogue_args(w.epilogue)]
        args.append(("workspace", 0))
        own_a, own_b, leading = ((), (), ()) if batch == 1 else (matrices_of(a), matrices_of(b), matrices_of(out))
        # words of A are unsigned when `step` reads them
        terms = Terms("BYTES" if per == 4 else "PAIRS", _INPUTS[a.type.dtype], 1, 1)
        text = defines({
            "ENTRY_PACK": f"{entry}_pack", "ENTRY": entry, **terms.defines,
            "TURN": int(turn), "OFFSET": f"({zero + 128 * turn})",
            "ROWS_M": c_dim(rows, symbols), "COLS_K": c_dim(k, symbols), "COLS_N": columns,
            "BATCH": c_dim(batch, symbols), "B_COUNT": c_dim(b_count, symbols),
            "IMG_ROWS": c_dim(product(out.type.shape[1:-1]), symbols),
            "LDA": c_dim(a.row_stride or k, symbols), "LDB": c_dim(b.row_stride or columns, symbols),
            "OLD": out.row_stride or columns, "MR": mr, "MRT": "(-1)", "NB": nb, "NBT": vectors % nb,
            "NLT": columns - (vectors - 1) * lanes, "UK": 4, "PFL": 0, "EPI_LOOP": int(heavy_epilogue(w)), "BIAS": 1,
            "KBLOCKED": 0, "LATE": 0, "P_A": 0, "P_B": 1, "P_SHARED": 2, "P_OUT": 3, "P_WS": len(args) - 1,
        })  # fmt: skip
        source = "".join([
            template_text("vec.h", "vmath.h"), text,
            index_function("a_matrix", own_a, leading, symbols), index_function("b_matrix", own_b, leading, symbols),
            workload_epilogue_c(w, 4), template_text("tile.h", "gemm_int8.c"),
        ])  # fmt: skip
        workspace: DimLike = 4 * mr * (words + lanes + 48)
        shared = 4 * b_count * (words + 1) * (vectors * lanes)
        return Kernel(source, (f"{entry}_pack", entry), tuple(args), symbols, workspace, shared, in_place=False)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()
