"""Reductions over any axes, ArgMax and ArgMin on a CUDA GPU.

A block computes a line of outputs that are neighbours along the output's last axis (or its rows where that has one
element), and reads their elements in steps. Where outputs are few and elements many, the elements are split among
blocks as well, and a second launch joins the partial results: the order of additions depends only on the shape and the
parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import indent

import numpy as np

from temper.ir.dims import Dim, DimLike, ceil_div, product
from temper.ir.types import itemsize
from temper.reference.reduction import highest, lowest
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cuda.epilogue_triton import Parameter, program_declines
from temper.tactics.cuda.instructions import POINTER_TYPES, TRITON_TYPES
from temper.tactics.cuda.kernel import dim_text
from temper.tactics.cuda.levels import level_declines
from temper.tactics.cuda.loads import FLOATS
from temper.tactics.cuda.source import Stage, kernel_of, stores
from temper.tactics.geometry import Axis, collapse_axes, reduced_axes, strides_of, typical_count

_PROCESSORS = 132

#: Codes that are converted at once (`rounding`): Triton compiles no tile of fewer.
_PACKED = 4

#: Elements of a block, each with its position in 64 bits, that fit in registers.
_HELD = 2048


@dataclass(frozen=True)
class _Kind:
    """element: of x, as it joins the total. join: of two totals a and b. finish: the result from `total`."""

    element: str = "x"
    join: str = "{a} + {b}"
    finish: str = "total"
    start: str = "zero"  # or one, lowest, highest


_KINDS: Mapping[str, _Kind] = {
    "ReduceSum": _Kind(),
    "ReduceMean": _Kind(finish="total / COUNT"),
    "ReduceMax": _Kind(join="larger({a}, {b})", start="lowest"),
    "ReduceMin": _Kind(join="smaller({a}, {b})", start="highest"),
    "ReduceProd": _Kind(join="{a} * {b}", start="one"),
    "ReduceL1": _Kind("tl.abs(x)"),
    "ReduceL2": _Kind("x * x", finish="tl.sqrt_rn(total)"),
    "ReduceSumSquare": _Kind("x * x"),
    "ReduceLogSum": _Kind(finish="tl.log(total)"),
    "ReduceLogSumExp": _Kind(),
}
_EXTREMES = frozenset({"ReduceMax", "ReduceMin"})
#: Kinds whose result is no whole number.
_REAL = frozenset({"ReduceL2", "ReduceLogSum", "ReduceLogSumExp"})

_HELPERS: Mapping[str, str] = {
    "larger": "tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)",
    "smaller": "tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)",
    "times": "a * b",
}


def accumulator(op: str, dtype: str) -> str:
    """The type that elements of `dtype` are joined in, a name of TRITON_TYPES; empty if there is none."""
    if dtype in FLOATS:
        return "float32"
    if dtype == "float64":
        return dtype
    if dtype in ("int64", "uint32") or (dtype == "uint64" and op not in _EXTREMES):
        return "int64"
    small = dtype in ("int8", "uint8", "int16", "uint16", "int32") or (dtype == "bool" and op in _EXTREMES)
    return "int32" if small else ""


def loaded(text: str, dtype: str, kind: str) -> str:
    """The loaded expression in the type `kind`: Triton may extend the sign of unsigned numbers."""
    bits = {"uint8": " & 255", "uint16": " & 65535", "uint32": " & 0xFFFFFFFF"}.get(dtype, "")
    if dtype == kind:
        return text
    text = f"({text}).to({TRITON_TYPES[kind]})"
    return f"(({text} & 255) != 0).to(tl.int32)" if dtype == "bool" else f"({text}{bits})" if bits else text


@dataclass(frozen=True)
class Lines:
    """Which elements an output is made of. outputs: the output's axes, each with its size and its stride in the input.
    reduced: the axes an output's elements lie along."""

    outputs: tuple[Axis, ...]
    reduced: tuple[Axis, ...]

    @property
    def count(self) -> DimLike:
        return product(tuple(a.size for a in self.reduced))

    @property
    def channels(self) -> DimLike:
        return self.outputs[-1].size if self.outputs else 1

    @property
    def by_rows(self) -> bool:
        """Neighbours on a line are rows, for lack of channels."""
        return self.channels == 1

    @property
    def rows(self) -> DimLike:
        return product(tuple(a.size for a in self.outputs[:-1]))

    def blocks(self, line: int) -> DimLike:
        return ceil_div(self.rows, line) if self.by_rows else self.rows * ceil_div(self.channels, line)

    def element(self) -> str:
        """Offset of element `k` of an output."""
        return _offset(self.reduced, "k") or "k * 0"

    def head(self) -> str:
        """Statements that place a block of outputs: names as epilogue_triton.py states them, and `base` [LINE]."""
        if self.by_rows:
            text = (
                "row = (tile * LINE + tl.arange(0, LINE)).to(tl.int64)\nchannel = tl.arange(0, 1)\n"
                "row_ok = row < ROWS\nchannel_ok = channel < 1\nline_ok = row_ok\nat_row = row\nat_channel = 0\n"
            )
        else:
            text = (
                "at_row = (tile // COLUMNS).to(tl.int64)\nrow = at_row + tl.arange(0, 1)\n"
                "channel = tile % COLUMNS * LINE + tl.arange(0, LINE)\nrow_ok = row < ROWS\n"
                "channel_ok = channel < CHANNELS\nline_ok = channel_ok\nat_channel = channel.to(tl.int64)\n"
            )
        terms = [t for t in (_offset(self.outputs[:-1], "at_row"), _offset(self.outputs[-1:], "at_channel")) if t]
        return (
            f"{text}live = row_ok[:, None] & channel_ok[None, :]\nimage = row // IMG_ROWS\n"
            f"base = {' + '.join(terms) or '0'} + tl.zeros((LINE,), tl.int64)\n"
        )

    @property
    def spread(self) -> str:
        """Brackets that shape a line as the epilogue's tile."""
        return "[:, None]" if self.by_rows else "[None, :]"


def _offset(axes: Sequence[Axis], index: str) -> str:
    """Element offset of an index that counts over `axes`, the last fastest."""
    terms = []
    below: DimLike = 1
    for n, a in enumerate(reversed(axes)):
        if a.size != 1 and a.stride != 0:
            at = index if below == 1 else f"({index} // ({dim_text(below)}))"
            at = at if n == len(axes) - 1 else f"({at} % ({dim_text(a.size)}))"
            terms.append(f"{at} * ({dim_text(a.stride)})")
        below = below * a.size
    return " + ".join(terms)


def lines_of(w: Workload, axes: frozenset[int], keep: bool) -> Lines:
    """Where the elements of every output are, for a reduction of `axes`."""
    x = w.inputs[0]
    assert x is not None
    strides = strides_of(x.type.shape, (True,) * x.type.rank, x.row_stride)
    kept = [
        Axis(1, 0, False) if i in axes else Axis(d, s, False)
        for i, (d, s) in enumerate(zip(x.type.shape, strides, strict=True))
        if keep or i not in axes
    ]
    return Lines(tuple(kept), tuple(a for a in collapse_axes(w, axes) if a.reduced))


def _coded(w: Workload) -> bool:
    """Its program makes 8-bit codes, or reads them."""
    kinds = {o.dtype for o in w.epilogue.operands[1:]} | {i.dtype for i in w.epilogue.instrs}
    return bool(kinds & {"int8", "uint8"})


def line_sizes(w: Workload, lines: Lines, params: Params) -> dict[str, DimLike]:
    """The constants that the texts use."""
    shape, p = w.outputs[0].type.shape, dict(params)
    return {
        "ROWS": lines.rows, "CHANNELS": lines.channels, "COLUMNS": ceil_div(lines.channels, p["line"]),
        "IMG_ROWS": product(shape[1:-1]), "COUNT": lines.count, "LINE": p["line"], "DEPTH": p["depth"],
        "SPLITS": p["splits"],
    }  # fmt: skip


def line_blockings(lines: Lines, splittable: bool, least: int = 1) -> Iterator[Params]:
    """Outputs of a block, elements of a step, splits and warps."""
    inner = bool(lines.reduced) and lines.reduced[-1].stride == 1
    count = 1024 if isinstance(lines.count, Dim) else max(1, lines.count)
    width = lines.rows if lines.by_rows else lines.channels
    width = 256 if isinstance(width, Dim) else max(1, width)
    depths = (64, 256, 1024, 4096) if inner else (8, 32, 128)
    for line in [n for n in (1, 4, 16) if n >= least] if inner else (16, 64, 128, 256):
        if line >= 2 * width and line > (least if inner else 16):
            continue
        for depth in depths:
            if (depth >= 2 * count and depth > depths[0]) or not 64 <= line * depth <= 8192:
                continue
            blocks = lines.blocks(line)
            free = 1 if isinstance(blocks, Dim) else _PROCESSORS * 4 // max(1, blocks)
            for splits in (1, 8, 32, 128, 512):
                if splits > 1 and (not splittable or splits > 2 * free or count < 2 * splits * depth):
                    continue
                for warps in (4, 8) if line * depth >= 1024 else (1, 4):
                    if line * depth >= 32 * warps:
                        yield (("line", line), ("depth", depth), ("splits", splits), ("warps", warps))


def seconds(w: Workload, lines: Lines, params: Params) -> float:
    """Reading the input, by as many blocks as there are."""
    x, p = w.inputs[0], dict(params)
    assert x is not None
    nbytes = typical_count(x.type.shape) * itemsize(x.type.dtype)
    blocks = lines.blocks(p["line"]) * p["splits"]
    blocks = 64 if isinstance(blocks, Dim) else max(1, blocks)
    count = 1024 if isinstance(lines.count, Dim) else lines.count
    steps = -(-count // (p["depth"] * p["splits"]))
    inner = bool(lines.reduced) and lines.reduced[-1].stride == 1
    run = itemsize(x.type.dtype) * (p["depth"] if inner else p["line"])  # bytes read side by side
    share = min(1.0, blocks * p["warps"] / (_PROCESSORS * 16))
    waits = 0.5e-6 * steps * max(1.0, blocks * p["warps"] / (_PROCESSORS * 48))
    # lanes of one output that lie in several warps meet in shared memory
    meets = 1.0 if inner or steps > 8 else 1 + 0.1 * (p["warps"] - 1) * (1 + p["depth"] / 32)
    read = nbytes / (2.6e12 * share * min(1.0, run / 64)) * meets
    return (1.5e-6 if p["splits"] == 1 else 3.5e-6) + max(read, waits)


class Reduce:
    """ReduceSum, Mean, Max, Min, Prod, L1, L2, SumSquare, LogSum and LogSumExp.

    Parameters. line: outputs of a block. depth: elements of a step. splits: blocks that share an output's elements.
    """

    name = "cuda.reduce"
    ops = frozenset(_KINDS)

    def accepts(self, w: Workload) -> str | None:
        if w.op not in _KINDS:
            return f"computes {', '.join(_KINDS)}, not {w.op}"
        if (reason := level_declines(w)) is not None:
            return reason
        x = w.inputs[0] if w.inputs else None
        if x is None or x.type.rank == 0:
            return "a reduction needs an input with axes"
        dtype = x.type.dtype
        if not accumulator(w.op, dtype) or (w.op in _REAL and not dtype.startswith(("float", "bfloat"))):
            return f"{w.op} of {dtype} has no Triton form"
        if 0 in w.outputs[0].type.shape:
            return "it computes no element"
        if any(i and o.kind == "general" for i, o in enumerate(w.epilogue.operands)):
            return "an operand is broadcast along inner axes"
        return program_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        found = list(line_blockings(self._lines(w), True, _PACKED if _coded(w) else 1))
        return sorted(found, key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        return seconds(w, self._lines(w), params)

    @staticmethod
    def _lines(w: Workload) -> Lines:
        return lines_of(w, reduced_axes(w), bool(w.attr("keepdims", 1)))

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x, kind, lines, p = w.inputs[0], _KINDS[w.op], self._lines(w), dict(params)
        assert x is not None
        dtype = x.type.dtype
        acc = accumulator(w.op, dtype)
        exponential = w.op == "ReduceLogSumExp"
        inputs = [Parameter("x_at", POINTER_TYPES[dtype], ("input", 0))]
        sizes, start = line_sizes(w, lines, params), _identity(kind.start, dtype, acc)
        load = loaded("tl.load(x_at + base[:, None] + place[None, :], mask=taken, other=0)", dtype, acc)
        step = f"k = first + tl.arange(0, DEPTH).to(tl.int64)\nplace = {lines.element()}\n"
        step += f"taken = line_ok[:, None] & (k < LAST)[None, :]\nx = {load}\n"
        pick = step + f"x = tl.where(taken, {kind.element}, {start})\ntotal = {kind.join.format(a='total', b='x')}\n"
        if exponential:
            sink = 'x = tl.where(taken, x, float("-inf"))\n'
            body = _loop("top", 'float("-inf")', acc, step + sink + "top = larger(top, x)\n")
            body += f"{_reduced('ReduceMax', 'top')}{_SHIFT}"
            body += _loop("total", "0.0", acc, step + f"{sink}total += tl.exp(x - shift[:, None])\n")
        else:
            body = _loop("total", start, acc, pick)
        body += _reduced(w.op, "total")
        finish = _finish(w, kind, dtype, lines)
        helpers = "".join(f"\n\n@triton.jit\ndef {n}(a, b):\n    return {t}\n" for n, t in _HELPERS.items())
        about = f"{w.op} over {len(lines.reduced)} runs of axes."
        blocks, splits = lines.blocks(p["line"]), p["splits"]
        if splits == 1:
            body = f"tile = tl.program_id(0)\n{lines.head()}FIRST = 0\nLAST = COUNT\n{body}{finish}"
            return kernel_of(
                w, entry, about, inputs, sizes, body, helpers=helpers, grid=blocks, warps=p["warps"], stages=2
            )  # fmt: skip
        outputs = lines.rows * lines.channels
        parts = 2 if exponential else 1
        inputs.append(Parameter("found", POINTER_TYPES[acc], ("shared", 0)))
        sizes |= {"OUTPUTS": outputs, "SHARE": ceil_div(lines.count, splits)}
        flat = "(at_row * CHANNELS + at_channel)"
        before = f"tile = tl.program_id(0) // SPLITS\nsplit = tl.program_id(0) % SPLITS\n{lines.head()}"
        before += f"FIRST = split * SHARE\nLAST = tl.minimum(FIRST + SHARE, COUNT)\n{body}"
        before += f"tl.store(found + split * OUTPUTS + {flat}, total, mask=line_ok)\n"
        if exponential:
            before += f"tl.store(found + (SPLITS + split) * OUTPUTS + {flat}, top, mask=line_ok)\n"
        after = f"tile = tl.program_id(0)\n{lines.head()}s = tl.arange(0, SPLITS)\n"
        after += f"place = found + s[None, :] * OUTPUTS + {flat}[:, None]\n"
        after += "taken = line_ok[:, None] & (s < SPLITS)[None, :]\n"
        if exponential:
            after += 'top = tl.load(place + SPLITS * OUTPUTS, mask=taken, other=float("-inf"))\ntops = top\n'
            after += f"{_reduced('ReduceMax', 'top')}{_SHIFT}"
            after += "total = tl.load(place, mask=taken, other=0.0)\n"
            after += 'total = tl.where(tops == float("-inf"), 0.0, total * tl.exp(tops - shift[:, None]))\n'
        else:
            after += f"total = tl.load(place, mask=taken, other=0)\ntotal = tl.where(taken, total, {start})\n"
        after += _reduced(w.op, "total") + finish
        stage = Stage(before, blocks * splits, p["warps"], 2)
        return kernel_of(
            w, entry, about, inputs, sizes, after, helpers=helpers, grid=blocks, warps=4, before=(stage,),
            scratch=outputs * (splits * parts * itemsize(acc)),
        )  # fmt: skip

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


_SHIFT = 'shift = tl.where(tl.abs(top) < float("inf"), top, 0.0)\n'


def _loop(name: str, start: str, acc: str, step: str) -> str:
    """Statements that join the elements FIRST .. LAST in `name` [LINE, DEPTH]."""
    kind = TRITON_TYPES[acc]
    return f"{name} = tl.full((LINE, DEPTH), {start}, {kind})\nfor first in range(FIRST, LAST, DEPTH):\n" + indent(
        step, "    "
    )


def _reduced(op: str, name: str) -> str:
    """The statement that joins what a line's lanes hold."""
    function = {"ReduceMax": "larger", "ReduceMin": "smaller", "ReduceProd": "times"}.get(op)
    return f"{name} = tl.reduce({name}, 1, {function})\n" if function else f"{name} = tl.sum({name}, axis=1)\n"


def _identity(start: str, dtype: str, acc: str) -> str:
    """What joins without a trace."""
    if start in ("zero", "one"):
        return {"zero": "0", "one": "1"}[start] + (".0" if acc.startswith("float") else "")
    if acc.startswith("float"):
        return 'float("-inf")' if start == "lowest" else 'float("inf")'
    kind = np.dtype("bool" if dtype == "bool" else dtype)
    return str(int(lowest(kind) if start == "lowest" else highest(kind)))


def _finish(w: Workload, kind: _Kind, dtype: str, lines: Lines) -> str:
    """Statements from `total` [LINE] to the stores."""
    text = kind.finish
    if dtype == "float64":
        text = text.replace("sqrt_rn", "sqrt")
    if w.op == "ReduceLogSumExp":
        text = "tl.log(total) + shift"
    elif w.op == "ReduceMean" and not dtype.startswith(("float", "bfloat")):  # divided toward zero
        text = "(total.to(tl.float64) / COUNT).to(tl.int64)"
    made = w.epilogue.operands[0].dtype
    cast = " != 0" if made == "bool" else f".to({TRITON_TYPES[made]})"
    return f"v0 = (({text}){cast}){lines.spread}\n" + stores(w)


class ArgExtreme:
    """ArgMax and ArgMin along one axis; NaN counts as the extreme, as in numpy. Parameters as Reduce has them."""

    name = "cuda.arg_extreme"
    ops = frozenset({"ArgMax", "ArgMin"})

    def accepts(self, w: Workload) -> str | None:
        if w.op not in self.ops:
            return f"computes ArgMax and ArgMin, not {w.op}"
        if (reason := level_declines(w)) is not None:
            return reason
        x = w.inputs[0] if w.inputs else None
        if x is None or x.type.rank == 0:
            return "the input must have axes"
        if x.type.dtype == "bool" or not accumulator("ReduceMax", x.type.dtype):
            return f"{x.type.dtype} has no Triton form"
        if 0 in w.outputs[0].type.shape:
            return "it computes no element"
        if any(i and o.kind == "general" for i, o in enumerate(w.epilogue.operands)):
            return "an operand is broadcast along inner axes"
        return program_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        found = list(line_blockings(self._lines(w), False, _PACKED if _coded(w) else 1))
        found = [p for p in found if dict(p)["line"] * dict(p)["depth"] <= _HELD]
        return sorted(found, key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        return seconds(w, self._lines(w), params)

    @staticmethod
    def _lines(w: Workload) -> Lines:
        x, axis = w.inputs[0], w.attr("axis", 0)
        assert x is not None and isinstance(axis, int)
        return lines_of(w, frozenset({axis % x.type.rank}), bool(w.attr("keepdims", 1)))

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x, lines, p = w.inputs[0], self._lines(w), dict(params)
        assert x is not None
        dtype = x.type.dtype
        acc, largest = accumulator("ReduceMax", dtype), w.op == "ArgMax"
        last = bool(w.attr("select_last_index", 0))
        start = _identity("lowest" if largest else "highest", dtype, acc)
        load = loaded("tl.load(x_at + base[:, None] + place[None, :], mask=taken, other=0)", dtype, acc)
        better = f"(x {'>' if largest else '<'}{'=' if last else ''} best)"
        nan = ""
        if acc.startswith("float"):
            # nothing is better than a NaN but, if the last is asked for, another
            better = f"({better} & (best == best)) | ((x != x){'' if last else ' & (best == best)'})"
            nan = "nan = tl.max((best != best).to(tl.int32), axis=1)[:, None] > 0\n"
        # lanes that met nothing have index -1; positions of what equals the extreme compete
        body = f"""\
tile = tl.program_id(0)
{lines.head()}best = tl.full((LINE, DEPTH), {start}, {TRITON_TYPES[acc]})
index = tl.full((LINE, DEPTH), -1, tl.int64)
for first in range(0, COUNT, DEPTH):
    k = first + tl.arange(0, DEPTH).to(tl.int64)
    place = {lines.element()}
    taken = line_ok[:, None] & (k < COUNT)[None, :]
    x = {load}
    wins = taken & (({better}) | (index < 0))
    best = tl.where(wins, x, best)
    index = tl.where(wins, k[None, :], index)
{nan}extreme = tl.{'max' if largest else 'min'}(best, axis=1)[:, None]
has = (index >= 0) & ({'tl.where(nan, best != best, best == extreme)' if nan else 'best == extreme'})
"""
        absent = "-1" if last else "0x7FFFFFFFFFFFFFFF"
        pick = "max" if last else "min"
        made = w.epilogue.operands[0].dtype
        body += f"v0 = tl.{pick}(tl.where(has, index, {absent}), axis=1).to({TRITON_TYPES[made]}){lines.spread}\n"
        inputs = [Parameter("x_at", POINTER_TYPES[dtype], ("input", 0))]
        return kernel_of(
            w, entry, f"{w.op} of {dtype}.", inputs, line_sizes(w, lines, params), body + stores(w),
            grid=lines.blocks(p["line"]), warps=p["warps"], stages=2,
        )  # fmt: skip

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()
