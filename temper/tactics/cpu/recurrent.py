"""Recurrent layers in one kernel (templates/recurrent.c): per step a product with R and the cell on its sums; float32.

With few rows the limit is reading R once a step (from L2, or L3 beyond it); with many, multiply-adds, R being read once
for MB rows. Work is shared out over (direction, row) pairs; where there are few of them and R is large, over hidden
units (templates/recurrent_together.c), every share taking part in every step: each core then reads its part of R only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import Dim, DimLike
from temper.ir.ops.recurrent import CELLS, DIRECTIONS
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.cpu.instructions import literal
from temper.tactics.cpu.render import body_c, template_text
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.epilogue import Attr, Epilogue, Instr, Operand

_TYPICAL_STEPS, _TYPICAL_ROWS = 64, 1
#: most rows that take their steps together: their states stay in L2
_ROWS = 64
#: cycles of an activation on a vector
_ACTIVATION = 15
#: most rows whose steps threads share, least bytes of R and least seconds of the layer for which they do, and what a
#: step then costs in waiting
_FEW_ROWS, _SHARED_BYTES, _SHARED_SECONDS, _MEETING = 8, 96 << 10, 20e-6, 0.4e-6
#: ranges of hidden units that shares can have as their own
_HOMES = 64
#: bytes a cycle that R streams with from L2 and from beyond, and what of it L2 holds
_L2_RATE, _L3_RATE, _L2_BYTES = 42.0, 24.0, 1280 << 10


@dataclass(frozen=True)
class _Layer:
    """A workload's sizes. gates: of the first and of the second product of a step."""

    kind: str
    steps: DimLike
    batch: DimLike
    directions: int
    hidden: int
    gates: tuple[int, int]


def _layer(w: Workload) -> _Layer | str:
    """The layer of a workload, or the reason there is no kernel."""
    if w.op != "Recurrence":
        return f"computes Recurrence, not {w.op}"
    if w.isa not in ISAS:
        return f"no such CPU level: {w.isa}"
    if w.epilogue.instrs:
        return "it has several results and no epilogue"
    x, r = w.inputs[0], w.inputs[1]
    if x is None or r is None:
        return "needs gates and recurrence weights"
    if any(s is not None and s.type.dtype not in ("float32", "int32") for s in (*w.inputs, *w.outputs)):
        return "computes in float32 only"
    if any(s is not None and s.row_stride is not None for s in (*w.inputs[2:], *w.outputs[1:])):
        return "states and peepholes must be dense"
    hidden = r.type.shape[2]
    if not isinstance(hidden, int) or hidden < 1:
        return "the hidden size must be known at build time"
    cell = str(w.attr("cell"))
    after = bool(w.attr("linear_before_reset", 0))
    kind = "gru_after" if cell == "gru" and after else "gru_before" if cell == "gru" else cell
    steps, batch = x.type.shape[1::-1] if w.attr("batch_first", 0) else x.type.shape[:2]
    gates = (2, 1) if kind == "gru_before" else (CELLS[cell][0], 0)
    return _Layer(kind, steps, batch, DIRECTIONS[str(w.attr("direction"))], hidden, gates)


def _accepted(w: Workload) -> _Layer:
    layer = _layer(w)
    if isinstance(layer, str):
        raise ValueError(f"workload was not accepted: {layer}")
    return layer


def _activation_c(name: str, alpha: float, beta: float) -> str:
    """C expression of an activation of the vector v0."""
    if name == "Affine":
        return f"{literal(alpha)} * v0 + {literal(beta)}"
    if name == "ScaledTanh":
        return f"{literal(alpha)} * v_tanh({literal(beta)} * v0)"
    attrs: tuple[tuple[str, Attr], ...] = ()
    if name in ("HardSigmoid", "LeakyRelu", "Elu", "ThresholdedRelu"):
        attrs = (("alpha", alpha), ("beta", beta)) if name == "HardSigmoid" else (("alpha", alpha),)
    program = Epilogue((Operand("float32", (True,)),), (Instr(name, (0,), "float32", attrs),), (1,))
    return body_c(program, vector=True).split(" = ", 1)[1].rstrip().removesuffix(";")


def _activations_c(w: Workload, layer: _Layer) -> str:
    """act0(d, x) .. act2(d, x): the layer's activations in direction d, of what `clip` leaves."""
    names = str(w.attr("activations")).split()
    alpha, beta, bound = w.attr("alpha"), w.attr("beta"), w.attr("clip", 0.0)
    assert isinstance(alpha, tuple) and isinstance(beta, tuple) and isinstance(bound, (int, float))
    texts = [_activation_c(n, float(a), float(b)) for n, a, b in zip(names, alpha, beta, strict=True)]
    each = len(texts) // layer.directions
    out = []
    for i in range(each):
        clip = f"  v0 = v_minr(splat({literal(bound)}), v_maxr(splat({literal(-bound)}), v0));\n" if bound else ""
        out.append(f"INLINE vf act{i}(int d, vf v0) {{\n  (void)d;\n{clip}")
        if layer.directions == 2 and texts[i] != texts[each + i]:
            out.append(f"  if (d) return {texts[each + i]};\n")
        out.append(f"  return {texts[i]};\n}}\n")
    return "".join(out)


def _shares_steps(w: Workload, layer: _Layer) -> str | None:
    """None where shares can take part in each other's steps; otherwise the reason they do not."""
    if w.threads < 2:
        return "there is one thread"
    if isinstance(layer.batch, Dim) or not 0 < layer.batch * layer.directions <= _FEW_ROWS:
        return "the number of rows is large or known at run time only"
    if not w.constant[1] or (len(w.inputs) > 3 and w.inputs[3] is not None):
        return "weights or lengths are known at run time only"
    if layer.directions * layer.hidden**2 * sum(layer.gates) * 4 < _SHARED_BYTES:
        return "a step is short"
    return None


class Recurrent:
    """Parameters. mb: rows of a register tile. nu: vectors of hidden units of a tile, with all their gates. together:
    shares take part in each other's steps."""

    name = "cpu.recurrent"
    ops = frozenset({"Recurrence"})

    def accepts(self, w: Workload) -> str | None:
        layer = _layer(w)
        return layer if isinstance(layer, str) else None

    def candidates(self, w: Workload) -> Sequence[Params]:
        layer, isa = _accepted(w), ISAS[w.isa]
        vectors = -(-layer.hidden // isa.lanes)
        widest = max(layer.gates)
        limit = 24 if isa.registers == 32 else 9
        tiles = set()
        for nu in (1, 2, 3, 4, 6, 8):
            if nu > 1 and (nu > vectors or nu * widest > limit):
                continue
            most = max(1, min(8, limit // (nu * widest)))
            if not isinstance(layer.batch, Dim):
                most = max(1, min(most, layer.batch))
            tiles |= {(most, nu), (max(1, most // 2), nu)}
        params: list[Params] = [(("mb", mb), ("nu", nu), ("together", 0)) for mb, nu in sorted(tiles)]
        if _shares_steps(w, layer) is None:
            # shares are timed one after another, which hides what they gain together: only predictions tell
            shared: list[Params] = [(("mb", mb), ("nu", nu), ("together", 1)) for mb, nu in sorted(tiles)]
            best, alone = (min(self.predict(w, p) for p in ps) for ps in (shared, params))
            if alone > _SHARED_SECONDS and best < 0.9 * alone:
                params = shared
        return sorted(params, key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        layer, isa, p = _accepted(w), ISAS[w.isa], dict(params)
        steps = _TYPICAL_STEPS if isinstance(layer.steps, Dim) else layer.steps
        batch = _TYPICAL_ROWS if isinstance(layer.batch, Dim) else layer.batch
        groups = -(-layer.hidden // (isa.lanes * p["nu"]))
        pairs, pieces = batch * layer.directions, groups * layer.directions
        if p["together"]:
            part = -(-pieces // w.threads) / pieces
            step = layer.directions * part * self._step_cycles(w, layer, p, batch, part * layer.directions)
            return 2e-6 + steps * ((2 if layer.gates[1] else 1) * _MEETING + step / 3.8e9)
        share = -(-pairs // min(w.threads, max(pairs, 1)))
        rows = max(1, min(share, batch))
        return 5e-7 + steps * -(-share // rows) * self._step_cycles(w, layer, p, rows, 1.0) / 3.8e9

    @staticmethod
    def _step_cycles(w: Workload, layer: _Layer, p: Mapping[str, int], rows: int, part: float) -> float:
        """Cycles of a step of one direction. part: how much of R a core reads, which decides whence it comes."""
        isa, nu = ISAS[w.isa], p["nu"]
        groups = -(-layer.hidden // (isa.lanes * nu))
        held = groups * layer.hidden * nu * sum(layer.gates) * isa.lanes * 4
        rate = _L2_RATE if held * part < _L2_BYTES else _L3_RATE
        sums = 0.0
        for m in [p["mb"]] * (rows // p["mb"]) + [rows % p["mb"]] * (rows % p["mb"] > 0):
            for gates in filter(None, layer.gates):
                sums += groups * layer.hidden * max(m * nu * gates * 0.5, 4.0, nu * gates * 0.5 + m * 0.5)
        cells = rows * groups * nu * (5 * _ACTIVATION if layer.kind == "lstm" else 3 * _ACTIVATION)
        return max(sums, held / rate) + cells + 40 * rows

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        layer, isa, p = _accepted(w), ISAS[w.isa], dict(params)
        x, r, out = w.inputs[0], w.inputs[1], w.outputs[0]
        assert x is not None and r is not None
        symbols, known = w.symbols, w.constant[1]
        groups = -(-layer.hidden // (isa.lanes * p["nu"]))
        rows = _ROWS if isinstance(layer.batch, Dim) else max(1, min(_ROWS, layer.batch))
        states = {"lstm": 3, "gru_before": 4}.get(layer.kind, 2)
        packed = layer.directions * groups * layer.hidden * p["nu"] * sum(layer.gates) * isa.lanes * 4
        args: list[ArgRef] = [("input", 0), ("packed", 0) if known else ("shared", 0)]
        if not known:
            args.append(("input", 1))
        places = {"P_GATES": 0, "P_PACKED": 1, "P_R": 2, "P_LAST_C": 0}
        for i, name in ((2, "P_BIAS"), (3, "P_LENGTHS"), (4, "P_H0"), (5, "P_C0"), (6, "P_PEEP")):
            given = i < len(w.inputs) and w.inputs[i] is not None
            places[name] = len(args) if given else -1
            if given:
                args.append(("input", i))
        for i, name in enumerate(("P_Y", "P_LAST_H", "P_LAST_C")[: len(w.outputs)]):
            places[name] = len(args)
            args.append(("output", i))
        places["P_WS"] = len(args)
        args.append(("workspace", 0))
        wide = layer.directions * sum(layer.gates) * layer.hidden
        backward = {"forward": (0, 0), "reverse": (1, 1), "bidirectional": (0, 1)}[str(w.attr("direction"))]
        together = bool(p["together"])
        if together:
            args[-1] = ("shared", 0)
        text = defines(
            {
                "ENTRY": entry,
                "ENTRY_PACK": f"{entry}_pack",
                "ENTRY_START": f"{entry}_start",
                "HOMES": _HOMES,
                "PACK": int(not known),
                "CELL": layer.kind.upper(),
                "GATES": layer.gates[0],
                "GATES2": layer.gates[1],
                "DIRECTIONS": layer.directions,
                "REVERSE0": backward[0],
                "REVERSE1": backward[1],
                "HIDDEN": layer.hidden,
                "GROUPS": groups,
                "NU": p["nu"],
                "MB": p["mb"],
                "UK": 4 if p["mb"] * p["nu"] * max(layer.gates) <= 12 else 2,
                "ROWS": rows,
                "STATES": states,
                "STEPS": c_dim(layer.steps, symbols),
                "BATCH": c_dim(layer.batch, symbols),
                "BATCH_FIRST": int(bool(w.attr("batch_first", 0))),
                "GATES_STRIDE": x.row_stride or wide,
                "Y_STRIDE": out.row_stride or layer.directions * layer.hidden,
                "R_STRIDE": r.row_stride or layer.hidden,
                "COUPLED": int(bool(w.attr("input_forget", 0))),
                "CANDIDATE_BIAS": int(places["P_BIAS"] >= 0),
                "LENGTHS": int(places["P_LENGTHS"] >= 0),
                "PEEPHOLES": int(places["P_PEEP"] >= 0),
                **places,
            }
        )
        source = template_text("vec.h", "vmath.h") + text + _KINDS + _activations_c(w, layer)
        source += template_text("recurrent_cell.h", "recurrent_together.c" if together else "recurrent.c")
        held = states * groups * p["nu"] * isa.lanes * 4
        if together:
            assert not isinstance(layer.batch, Dim)
            shared = 64 * (1 + _HOMES) + layer.directions * layer.batch * held
            return Kernel(source, (f"{entry}_start", entry), tuple(args), symbols, 0, shared, in_place=False)
        entries = (entry,) if known else (f"{entry}_pack", entry)
        return Kernel(source, entries, tuple(args), symbols, rows * held, 0 if known else packed, in_place=False)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        if not w.constant[1]:
            return ()
        layer, lanes, nu = _accepted(w), ISAS[w.isa].lanes, dict(params)["nu"]
        groups = -(-layer.hidden // (lanes * nu))
        units = groups * nu * lanes
        r = constants[1].reshape(layer.directions, sum(layer.gates), layer.hidden, layer.hidden)
        whole = np.zeros((*r.shape[:2], units, layer.hidden), np.float32)
        whole[:, :, : layer.hidden] = r
        # [direction, gate, group, vector, lane, k] -> [direction, group, k, vector, gate, lane]
        shaped = whole.reshape(*r.shape[:2], groups, nu, lanes, layer.hidden).transpose(0, 2, 5, 3, 1, 4)
        ends = np.cumsum((0, *layer.gates))
        passes = [shaped[:, :, :, :, a:b].reshape(layer.directions, -1) for a, b in pairwise(ends.tolist()) if a < b]
        return (np.concatenate(passes, axis=1).reshape(-1),)


#: numbers that CELL is compared with by the preprocessor
_KINDS = "".join(f"#define {kind} {i}\n" for i, kind in enumerate(("LSTM", "GRU_BEFORE", "GRU_AFTER", "RNN")))
