"""LSTM, GRU and RNN layers in one kernel on a CUDA GPU: a block takes some rows of one direction through all steps.

Steps follow each other within the block, whose warps synchronise after each: there are no launches between steps, and
no block waits for another. A block reads the recurrent weights R from the L2 cache once a step, and that is the limit:
about 60 GB/s for each block. Few rows get a block each and are multiplied element by element; many share blocks of 16.
Everything is float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import indent

import numpy as np

from temper.ir.dims import Dim, DimLike, ceil_div
from temper.ir.ops.recurrent import CELLS, DIRECTIONS
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cuda.epilogue_triton import POINTER_TYPES, Parameter, epilogue_helpers, program_declines
from temper.tactics.cuda.instructions import expression, literal
from temper.tactics.cuda.levels import level_declines
from temper.tactics.cuda.loads import FLOATS, widened
from temper.tactics.cuda.source import kernel_of
from temper.tactics.epilogue import Attr, Epilogue, Instr, Operand

_TYPICAL_STEPS, _TYPICAL_ROWS = 64, 1
_PROCESSORS = 132

#: the sums of a step's first and second product with R, by cell
_GATES: Mapping[str, tuple[int, int]] = {"lstm": (4, 0), "gru_after": (3, 0), "gru_before": (2, 1), "rnn": (1, 0)}

_NAMES = ("x", "r", "bias", "lengths", "h0", "c0", "peep")


@dataclass(frozen=True)
class _Layer:
    kind: str
    steps: DimLike
    batch: DimLike
    directions: int
    hidden: int

    @property
    def gates(self) -> int:
        return sum(_GATES[self.kind])


def _layer(w: Workload) -> _Layer | str:
    """The layer of a workload, or the reason there is no kernel."""
    x, r = w.inputs[0], w.inputs[1]
    if x is None or r is None:
        return "needs gates and recurrence weights"
    for i, s in enumerate(w.inputs):
        if s is not None and s.type.dtype not in (FLOATS if i != 3 else ("int32",)):
            return f"computes {', '.join(FLOATS)}, not {s.type.dtype}"
    if any(s.type.dtype != "float32" for s in w.outputs):
        return "its results are float32"
    if any(s is not None and s.row_stride is not None for s in (*w.inputs[1:], *w.outputs[1:])):
        return "weights, states and peepholes must be dense"
    if any(0 in s.type.shape for s in w.outputs):
        return "it computes no element"
    hidden = r.type.shape[2]
    if not isinstance(hidden, int):
        return "the hidden size must be known at build time"
    cell = str(w.attr("cell"))
    kind = cell if cell != "gru" else "gru_after" if w.attr("linear_before_reset", 0) else "gru_before"
    steps, batch = x.type.shape[1::-1] if w.attr("batch_first", 0) else x.type.shape[:2]
    return _Layer(kind, steps, batch, DIRECTIONS[str(w.attr("direction"))], hidden)


def _activations(w: Workload, layer: _Layer) -> list[list[Instr]]:
    """Of every direction, the steps of its activations."""
    names = str(w.attr("activations")).split()
    alpha, beta = w.attr("alpha"), w.attr("beta")
    assert isinstance(alpha, tuple) and isinstance(beta, tuple)
    made = []
    for name, a, b in zip(names, alpha, beta, strict=True):
        attrs: tuple[tuple[str, Attr], ...] = ()
        if name in ("HardSigmoid", "LeakyRelu", "Elu", "ThresholdedRelu"):
            attrs = (("alpha", float(a)), ("beta", float(b))) if name == "HardSigmoid" else (("alpha", float(a)),)
        if name in ("Affine", "ScaledTanh"):
            attrs = (("alpha", float(a)), ("beta", float(b)))
        made.append(Instr({"Affine": "Identity", "ScaledTanh": "Tanh"}.get(name, name), (0,), "float32", attrs))
    each = CELLS[str(w.attr("cell"))][1]
    named = [list(zip(names[i : i + each], made[i : i + each], strict=True)) for i in range(0, len(names), each)]
    return [[Instr(i.op, i.args, i.dtype, (*i.attrs, ("name", n))) for n, i in d] for d in named][: layer.directions]


def _function(instr: Instr, arg: str) -> str:
    """Triton expression of an activation of `arg`."""
    attrs = dict(instr.attrs)
    name = attrs.pop("name")
    if name == "Affine":
        return f"({literal(attrs['alpha'])} * ({arg}) + {literal(attrs['beta'])})"
    plain = Instr(instr.op, instr.args, instr.dtype, () if name == "ScaledTanh" else tuple(attrs.items()))
    if name == "ScaledTanh":
        arg = f"({literal(attrs['beta'])} * ({arg}))"
    text = expression(plain, [arg], ["float32"])
    assert text is not None
    return f"({literal(attrs['alpha'])} * ({text}))" if name == "ScaledTanh" else f"({text})"


class Recurrent:
    """Parameters. bm: rows of a block. bn: hidden units at a time. bk: terms of a product at a time."""

    name = "cuda.recurrent"
    ops = frozenset({"Recurrence"})

    def accepts(self, w: Workload) -> str | None:
        if w.op != "Recurrence":
            return f"computes Recurrence, not {w.op}"
        if (reason := level_declines(w)) is not None:
            return reason
        if w.epilogue.instrs:
            return "it has several results and no epilogue"
        layer = _layer(w)
        return layer if isinstance(layer, str) else program_declines(_program(w, layer))

    def candidates(self, w: Workload) -> Sequence[Params]:
        layer = _accepted(w)
        room = 1 << max(4, (layer.hidden - 1).bit_length())
        found: list[Params] = [
            (("bm", bm), ("bn", min(bn, room)), ("bk", min(bk, room)), ("warps", warps))
            for bm, bn, bk, warps in (
                (1, 64, 128, 8), (1, 64, 128, 16), (1, 128, 64, 16), (1, 32, 128, 4), (16, 32, 32, 4), (16, 64, 32, 8)
            )
        ]  # fmt: skip
        return sorted(dict.fromkeys(found), key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        layer, p = _accepted(w), dict(params)
        steps = _TYPICAL_STEPS if isinstance(layer.steps, Dim) else layer.steps
        rows = _TYPICAL_ROWS if isinstance(layer.batch, Dim) else layer.batch
        waves = -(-layer.directions * -(-rows // p["bm"]) // _PROCESSORS)
        terms = layer.gates * layer.hidden**2
        read = 4 * terms / (6e9 * p["warps"])
        multiplied = p["bm"] * terms / 120e9
        return 2e-6 + waves * steps * (max(read, multiplied) + 2e-6)

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        layer, p = _accepted(w), dict(params)
        x, y = w.inputs[0], w.outputs[0]
        assert x is not None
        inputs = [
            Parameter(_NAMES[i], POINTER_TYPES[s.type.dtype], ("input", i)) for i, s in enumerate(w.inputs) if s
        ]
        lasts = ("last_h", "last_c")[: len(w.outputs) - 1]
        results = [Parameter(n, "*fp32", ("output", i)) for i, n in enumerate(lasts, 1)]
        inputs.append(Parameter("state", "*fp32", ("shared", 0)))
        states = layer.directions * layer.batch * layer.hidden
        sizes: dict[str, DimLike] = {
            "STEPS": layer.steps, "BATCH": layer.batch, "H": layer.hidden, "BM": p["bm"], "BN": p["bn"], "BK": p["bk"],
            "TILES": ceil_div(layer.batch, p["bm"]), "PLANE": states,
            "X_STRIDE": x.row_stride or layer.directions * layer.gates * layer.hidden,
            "Y_STRIDE": y.row_stride or layer.directions * layer.hidden, "WIDE": layer.gates * layer.hidden,
        }  # fmt: skip
        about = f"A layer of {layer.hidden} {layer.kind} units in {layer.directions} directions."
        return kernel_of(
            w, entry, about, inputs, sizes, _Text(w, layer, p["bm"]).body(), warps=p["warps"], in_place=False,
            results=results, helpers=epilogue_helpers(_program(w, layer)),
            grid=layer.directions * ceil_div(layer.batch, p["bm"]),
            scratch=states * (4 * (4 if layer.kind == "gru_before" else 2)),
        )  # fmt: skip

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


def _program(w: Workload, layer: _Layer) -> Epilogue:
    """The activations as one program, for the helper functions they call."""
    instrs = [
        Instr(i.op, (0,), "float32", tuple(a for a in i.attrs if a[0] != "name" and i.op not in ("Tanh", "Identity")))
        for functions in _activations(w, layer)
        for i in functions
    ]
    return Epilogue((Operand("float32", (True, True)),), tuple(instrs), (0,))


class _Text:
    """The statements of a layer's kernel."""

    def __init__(self, w: Workload, layer: _Layer, bm: int) -> None:
        self.w, self.layer, self.bm = w, layer, bm
        self.functions = _activations(w, layer)
        self.given = {n: s.type.dtype for n, s in zip(_NAMES, w.inputs, strict=False) if s is not None}

    def act(self, i: int, arg: str, clipped: bool = True) -> str:
        """Activation i of the direction at hand."""
        bound = float(str(self.w.attr("clip", 0.0)))
        if bound and clipped:
            arg = f"tl.minimum(tl.maximum({arg}, {literal(-bound)}), {literal(bound)})"
        texts = [_function(f[i], arg) for f in self.functions]
        return texts[0] if len(set(texts)) == 1 else f"tl.where(d == 0, {texts[0]}, {texts[1]})"

    def product(self, sums: Sequence[tuple[str, int]], state: str) -> str:
        """Adds `state` times R's rows of some gates to each gate's sum."""
        load = "tl.load(r + (d * WIDE + {} * H + n){} * H + k{}, mask=(n < H){} & (k < H){}, other=0)"
        own = f"tl.load({state} + lane[:, None] * H + k[None, :], mask=row_ok[:, None] & (k < H)[None, :], other=0.0)"
        text = f"for k0 in range(0, H, BK):\n    k = k0 + tl.arange(0, BK)\n    own = {own}\n"
        for name, gate in sums:
            if self.bm == 1:  # [BN, BK] times [1, BK]
                term = load.format(gate, "[:, None]", "[None, :]", "[:, None]", "[None, :]")
                text += f"    {name} += tl.sum({widened(term, self.given['r'])} * own, axis=1)[None, :]\n"
            else:
                term = load.format(gate, "[None, :]", "[:, None]", "[None, :]", "[:, None]")
                dot = f'tl.dot(own, {widened(term, self.given["r"])}, {name}, input_precision="ieee")'
                text += f"    {name} = {dot}\n"
        return text

    def gate(self, i: int) -> str:
        load = f"tl.load(x + at[:, None] * X_STRIDE + (d * WIDE + {i} * H + n)[None, :], mask=live, other=0)"
        return widened(load, self.given["x"])

    def weight(self, name: str, i: int, many: int) -> str:
        """Elements of a [D, many * H] operand for the units at hand."""
        load = f"tl.load({name} + d * {many} * H + {i} * H + n, mask=n < H, other=0)[None, :]"
        return widened(load, self.given[name])

    def body(self) -> str:
        layer = self.layer
        backward = {"forward": "False", "reverse": "True", "bidirectional": "d == 1"}[str(self.w.attr("direction"))]
        place = "rows * STEPS + {}" if self.w.attr("batch_first", 0) else "{} * BATCH + rows"
        units = "for n0 in range(0, H, BN):\n    n = n0 + tl.arange(0, BN)\n"
        units += "    there = row_ok[:, None] & (n < H)[None, :]\n    mine = lane[:, None] * H + n[None, :]\n"
        start = "tl.zeros((BM, BN), tl.float32)"
        initial = dict.fromkeys(("h0", "c0"), start)
        for n in initial:
            if n in self.given:
                initial[n] = widened(f"tl.load({n} + mine, mask=there, other=0)", self.given[n])
        text = "tile = tl.program_id(0)\nd = tile // TILES\n"
        text += "rows = (tile % TILES * BM + tl.arange(0, BM)).to(tl.int64)\nrow_ok = rows < BATCH\n"
        text += "lane = d * BATCH + rows\ncount = tl.zeros((BM,), tl.int32) + STEPS\n"
        if "lengths" in self.given:
            text += "count = tl.load(lengths + rows, mask=row_ok, other=0)\n"
            text += "count = tl.minimum(tl.maximum(count, 0), STEPS)\n"
        text += f"{units}    tl.store(state + mine, {initial['h0']}, mask=there)\n"
        if layer.kind == "lstm":
            text += f"    tl.store(last_c + mine, {initial['c0']}, mask=there)\n"
        text += "tl.debug_barrier()\n"
        step = "old = state + (s % 2) * PLANE\nnew = state + (1 - s % 2) * PLANE\nstepping = row_ok & (s < count)\n"
        step += f"backward = {backward}\nt = tl.where(backward, count - 1 - s, s).to(tl.int64)\n"
        step += f"at = {place.format('t')}\n"
        head = units + "    live = stepping[:, None] & (n < H)[None, :]\n"
        tail = "h = tl.where(live, h, before)\ntl.store(new + mine, h, mask=there)\n"
        tail += "tl.store(o0 + at[:, None] * Y_STRIDE + (d * H + n)[None, :], h, mask=live)\n"
        if "lengths" in self.given:
            late = "(row_ok & (s >= count))[:, None] & (n < H)[None, :]"
            later = place.format("tl.full((BM,), s, tl.int64)")
            tail += f"later = {later}\n"
            tail += f"tl.store(o0 + later[:, None] * Y_STRIDE + (d * H + n)[None, :], {start}, mask={late})\n"
        before = "before = tl.load(old + mine, mask=there, other=0.0)\n"
        if layer.kind == "gru_before":
            step += head + indent(before + self.reset(), "    ") + "tl.debug_barrier()\n"
            step += head + indent(before + self.candidate() + tail, "    ")
        else:
            step += head + indent(before + getattr(self, layer.kind)() + tail, "    ")
        text += f"for s in range(0, STEPS):\n{indent(step, '    ')}    tl.debug_barrier()\n"
        text += f"{units}    done = tl.load(state + (STEPS % 2) * PLANE + mine, mask=there)\n"
        return text + "    tl.store(last_h + mine, done, mask=there)\n"

    def rnn(self) -> str:
        return f"a = {self.gate(0)}\n{self.product([('a', 0)], 'old')}h = {self.act(0, 'a')}\n"

    def lstm(self) -> str:
        names = ("i", "o", "f", "g")
        text = "".join(f"{n} = {self.gate(k)}\n" for k, n in enumerate(names))
        text += self.product(list(zip(names, range(4), strict=True)), "old")
        text += "c = tl.load(last_c + mine, mask=there, other=0.0)\nkept = c\n"
        if peep := "peep" in self.given:
            text += f"i += {self.weight('peep', 0, 3)} * c\nf += {self.weight('peep', 2, 3)} * c\n"
        text += f"i = {self.act(0, 'i')}\n"
        text += "f = 1.0 - i\n" if self.w.attr("input_forget", 0) else f"f = {self.act(0, 'f')}\n"
        text += f"c = f * c + i * {self.act(1, 'g')}\n"
        if peep:
            text += f"o += {self.weight('peep', 1, 3)} * c\n"
        text += f"o = {self.act(0, 'o')}\nh = o * {self.act(2, 'c', clipped=False)}\n"
        return text + "tl.store(last_c + mine, tl.where(live, c, kept), mask=there)\n"

    def gru_after(self) -> str:
        text = f"z = {self.gate(0)}\nu = {self.gate(1)}\ninner = tl.zeros((BM, BN), tl.float32)\n"
        text += self.product([("z", 0), ("u", 1), ("inner", 2)], "old")
        if "bias" in self.given:
            text += f"inner += {self.weight('bias', 0, 1)}\n"
        text += f"z = {self.act(0, 'z')}\nu = {self.act(0, 'u')}\ng = {self.gate(2)} + u * inner\n"
        return text + f"h = (1.0 - z) * {self.act(1, 'g')} + z * before\n"

    def reset(self) -> str:
        text = f"z = {self.gate(0)}\nu = {self.gate(1)}\n" + self.product([("z", 0), ("u", 1)], "old")
        text += f"tl.store(state + 2 * PLANE + mine, {self.act(0, 'u')} * before, mask=there)\n"
        return text + f"tl.store(state + 3 * PLANE + mine, {self.act(0, 'z')}, mask=there)\n"

    def candidate(self) -> str:
        text = f"g = {self.gate(2)}\n" + self.product([("g", 2)], "(state + 2 * PLANE)")
        text += "z = tl.load(state + 3 * PLANE + mine, mask=there, other=0.0)\n"
        return text + f"h = (1.0 - z) * {self.act(1, 'g')} + z * before\n"


def _accepted(w: Workload) -> _Layer:
    layer = _layer(w)
    if isinstance(layer, str):
        raise ValueError(f"workload was not accepted: {layer}")
    return layer
