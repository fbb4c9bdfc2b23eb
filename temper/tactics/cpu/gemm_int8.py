"""Products of codes whose right operand is known only at run time (templates/gemm_int8.c): batches, broadcast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.compile.cc import ISAS
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.blocking import register_tiles
from temper.tactics.cpu.conv import Terms
from temper.tactics.cpu.gemm import rows_of, runtime_product
from temper.tactics.cpu.int8 import GemmInt8
from temper.tactics.cpu.render import STORED, anchor_declines
from temper.tactics.cpu.source import c_dim
from temper.tactics.geometry import static

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
        p, a, b, per, zero = dict(params), w.inputs[0], w.inputs[1], self._per_word(w), w.attr("zero_point", 0)
        assert a is not None and b is not None and isinstance(zero, int)
        turn = per == 4 and a.type.dtype == "int8"
        # words of A are unsigned when `step` reads them
        terms = Terms("BYTES" if per == 4 else "PAIRS", _INPUTS[a.type.dtype], 1, 1)
        ldb = c_dim(b.row_stride or b.type.shape[-1], w.symbols)
        macros: dict[str, int | str] = {"TURN": int(turn), "OFFSET": f"({zero + 128 * turn})", "LDB": ldb}
        return runtime_product(w, entry, p["mr"], p["nb"], -1, terms, per, macros, "gemm_int8.c")

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()
