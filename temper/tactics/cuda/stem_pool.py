"""Kernel text that multiplies windows of a folded image and max-pools the results without storing them.

A block walks down a strip of rows. Its tile is BM columns of the pooled plane (over all images); of each it holds the
last two columns of the pooling window, as pairs of rows of the product 8 apart, so that one thread has both. A row of
the folded image is loaded once for all rows of the result that need it. The maximum down the columns is taken of the
accumulators. The epilogue, which must be monotonic (never falls where the accumulator rises), is applied twice: to the
maximum of both columns, and to that of the second alone, which is the first of the next window and is joined with it
when the block stores its results. Rows and columns beyond the last repeat the last, which changes no maximum.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from temper.ir.dims import Dim
from temper.tactics.base import Params, Workload
from temper.tactics.conv_geometry import conv_shape
from temper.tactics.cuda import register_tiles
from temper.tactics.geometry import int_tuple

#: What nothing is less than, by the type of the sums.
_LEAST = {"tl.int32": "-2147483648", "tl.float32": 'float("-inf")'}
_NAN = ", propagate_nan=tl.PropagateNan.ALL"


@dataclass(frozen=True)
class Pooled:
    """The window of the maximum over [oh, ow], of strides 2, which gives [ph, pw]. top, left: its padding."""

    kernel: int
    top: int
    left: int
    oh: int
    ow: int
    ph: int
    pw: int

    @staticmethod
    def of(conv: Workload, pool: Workload) -> Pooled | str:
        """Or why there is no kernel."""
        s, kernel, pads = conv_shape(conv), int_tuple(pool, "kernel_shape", 2, 1), int_tuple(pool, "pads", 4, 0)
        steps, spread = int_tuple(pool, "strides", 2, 1), int_tuple(pool, "dilations", 2, 1)
        if isinstance(s, str):
            return s
        if len(pool.outputs) != 1 or not pool.attr("channels_last", 0):
            return "takes the maximum of channels-last planes, without its place"
        if kernel not in ((2, 2), (3, 3)) or tuple(steps or ()) != (2, 2) or tuple(spread or ()) != (1, 1):
            return "the maximum is of windows of 2x2 or 3x3 that move by 2"
        if pads is None or not all(0 <= a <= 1 for a in pads[:2]):
            return f"the maximum is padded by {pads}"
        _, ph, pw, _ = pool.outputs[0].type.shape
        if isinstance(s.oh, Dim) or isinstance(s.ow, Dim) or isinstance(ph, Dim) or isinstance(pw, Dim):
            return "the planes' sizes must be known at build"
        if 0 in (ph, pw):
            return "it computes no element"
        return Pooled(kernel[0], pads[0], pads[1], s.oh, s.ow, ph, pw)

    @property
    def halo(self) -> int:
        """Columns a tile has before its own."""
        return self.kernel - 2

    @property
    def extra(self) -> int:
        """Columns before a row's first, whose second column the first window needs."""
        return self.halo if self.left == 0 else 0


#: (rows of a strip, products under way)
_CHOICES = ((1, 1), (2, 1), (4, 0), (4, 2), (7, 0), (7, 2))


@dataclass(frozen=True)
class Strip:
    """bm columns by bn channels; down: pooled rows of a strip; both: 1 where the products of two lines are under way
    together, 2 where the next step's rows are loaded meanwhile."""

    bm: int
    bn: int
    down: int
    warps: int
    both: int

    @property
    def params(self) -> Params:
        return tuple(vars(self).items())

    @staticmethod
    def of(params: Params) -> Strip:
        return Strip(**dict(params))

    @staticmethod
    def choices(p: Pooled, bn: int, isa: str) -> list[Strip]:
        """For a plane and channels of a tile. Before sm_90 weights are in registers while they multiply, too many of
        them for more than a few rows."""
        found = _CHOICES if int(isa.removeprefix("sm_")) >= 90 else _CHOICES[:2]
        return [Strip(32, bn, down, 4, both) for down, both in found if down <= p.ph]

    def shared(self, rows: int, run: int) -> int:
        """Bytes of shared memory. rows: of a window of the folded image; run: bytes of one."""
        return run * (rows * self.bn + (rows + 1) * 2 * self.bm)

    def seconds(self, blocks: int, p: Pooled, rows: int, run: int) -> float:
        """Predicted time of so many blocks."""
        lines = 2 * (self.down - 1) + p.kernel
        resident = max(1, min(3 - (self.both > 1), (220 << 10) // self.shared(rows, run)))
        # a line's products at the tensor cores' rate, and what a block waits for
        products = 2.0 * 2 * self.bm * self.bn * rows * run / (1979e12 / 132 * 0.8)
        waits = (0.55e-6 - 0.1e-6 * self.both) / resident
        waves = max(1.0, blocks / (132 * resident))
        return 2e-6 + waves * resident * (lines * max(products, waits) + 0.5e-6 / resident)


@dataclass(frozen=True)
class Program:
    """What follows the sums `v0` of a tile: loads of channels' values, named c_.., steps, and the result's name."""

    loads: tuple[str, ...]
    steps: tuple[str, ...]
    result: str


_HEAD = """\
tile = tl.program_id(0)
column = tile % COLUMNS
q0 = tile // COLUMNS % STRIPS * DOWN
first = tile // (COLUMNS * STRIPS) * (BM - HALO) - HALO
pair = tl.arange(0, 2 * BM)
spot = tl.minimum(tl.maximum(first + pair // 16 * 8 + pair % 8, 0), N * SPAN - 1)
at = tl.minimum(tl.maximum((spot % SPAN - EXTRA) * 2 + KERNEL - 2 - LEFT + pair // 8 % 2, 0), OW - 1)
k = tl.arange(0, RUN)
a_at = folded + (spot // SPAN).to(tl.int64)[:, None] * (HEIGHT * WIDTH * DEPTH) + (at * DEPTH)[:, None] + k[None, :]
y0 = q0 * 2 - TOP
channel = column * BN + tl.arange(0, BN)
n = tl.minimum({order}, OC - 1)
b_at = w + n[None, :] * TERMS + k[:, None]
"""

_PLACE = """\
own = first + tl.arange(0, BM)
spot = tl.minimum(tl.maximum(own, 0), N * SPAN - 1)
image = spot // SPAN
left = spot % SPAN - EXTRA
mine = (own < N * SPAN) & (left >= 0) & (tl.arange(0, BM) >= HALO)
next_ok = (own >= 0) & (own + 1 < N * SPAN) & (left + 1 < PW) & (tl.arange(0, BM) < BM - 1)
"""

_CHANNELS = """\
channel_{i} = column * BN + {first} + tl.arange(0, {part})
channel_ok_{i} = channel_{i} < OC
"""

_ROW = "row = (image.to(tl.int64) * PH + q0 + {q}) * PW + left{more}\n"
_AT = "o0 + row[:, None] * OUT_STRIDE + channel_{i}[None, :]"


def pooled_body(p: Pooled, b: Strip, rows: int, sums: str, program: Program, part: int, wide: str) -> str:
    """Statements of the kernel.

    rows: of the folded image in a window.
    part: channels of a part of the tile, in the order of `register_tiles`; 0: they are in their own order.
    wide: type that results are compared in.
    """
    return _Body(p, b, rows, sums, program, part, wide).text()


@dataclass(frozen=True)
class _Body:
    p: Pooled
    b: Strip
    rows: int
    sums: str
    program: Program
    part: int
    wide: str

    @property
    def parts(self) -> int:
        return self.b.bn // (self.part or self.b.bn)

    def text(self) -> str:
        size = self.part or self.b.bn
        order = f"column * BN + {register_tiles.columns('BN', self.part)}" if self.part else "channel"
        text = _HEAD.format(order=order)
        text += "".join(f"w{r} = tl.load(b_at + {r} * RUN)\n" for r in range(self.rows)) + _PLACE
        for i in range(self.parts):
            text += _CHANNELS.format(i=i, first=i * size, part=size)
        return text + "".join(self._loads(i) for i in range(self.parts)) + self._steps()

    def _steps(self) -> str:
        halo = self.p.halo
        text, loaded = self._carried(), self.rows * halo
        for q in range(self.b.down):
            first = 2 * q + halo
            # the next step's rows are loaded while this one's products are under way
            more = first + self.rows + 1
            text += "".join(self._row(f"a{i}", i) for i in range(loaded, more))
            loaded = more + 2 * (q + 1 < self.b.down) * (self.b.both > 1)
            ahead = "".join(self._row(f"a{i}", i) for i in range(more, loaded))
            text += self._step(first, ahead) + self._finished(q)
        if not halo:
            return text
        return text + "tl.debug_barrier()\n" + "".join(self._joined(q) for q in range(self.b.down))

    def _carried(self) -> str:
        """The first line of a strip, where its last lines are other strips' first."""
        if not self.p.halo:
            return ""
        text = "".join(self._row(f"a{r}", r) for r in range(self.rows))
        return text + self._sums("carry", 0) + self._masked("carry", 0)

    def _step(self, t: int, ahead: str) -> str:
        """`most`, the maximum of lines t and t + 1 of a strip and of the line before. ahead: statements that are done
        while products are under way."""
        upper = self._sums("upper", t), self._masked("upper", t)
        lower = self._sums("lower", t + 1), self._masked("lower", t + 1)
        text = upper[0] + lower[0] + ahead + upper[1] if self.b.both else "".join(upper)
        if self.p.halo:
            text += f"most = tl.maximum(carry, upper{self._nan})\n"
        text += lower[1] if self.b.both else "".join(lower)
        text += f"most = tl.maximum({'most' if self.p.halo else 'upper'}, lower{self._nan})\n"
        return text + "carry = lower\n" * self.p.halo

    def _row(self, name: str, row: int) -> str:
        place = f"tl.minimum(tl.maximum(y0 + {row}, 0), HEIGHT - 1)"
        return f"{name} = tl.load(a_at + {place} * (WIDTH * DEPTH))\n"

    def _sums(self, name: str, first: int) -> str:
        text = f"{name} = tl.zeros((2 * BM, BN), {self.sums})\n"
        return text + "".join(f"{name} = product(a{first + r}, w{r}, {name})\n" for r in range(self.rows))

    def _masked(self, name: str, t: int) -> str:
        """Sums of line t of a strip are nothing's where there is no such row."""
        p, down = self.p, self.b.down
        last = 2 * (-(-p.ph // down) - 1) * down - p.top + t
        tests = [f"(y0 + {t} >= 0)"] * (t < p.top) + [f"(y0 + {t} < OH)"] * (last >= p.oh)
        return f"{name} = tl.where({' & '.join(tests)}, {name}, {_LEAST[self.sums]})\n" if tests else ""

    @property
    def _nan(self) -> str:
        return _NAN if self.sums == "tl.float32" else ""

    def _loads(self, i: int) -> str:
        return "".join(_of_part(x, i) + "\n" for x in self.program.loads)

    def _within(self, mask: str, q: int, i: int) -> str:
        """The mask of a part of row q of a strip."""
        down = "" if self.p.ph % self.b.down == 0 else f" & (q0 + {q} + 0 * spot < PH)"
        return f"({mask}{down})[:, None] & channel_ok_{i}[None, :]"

    def _finished(self, q: int) -> str:
        """Stores row q of the strip, from `most`, and keeps what the next column takes of it."""
        text = self._split() + _ROW.format(q=q, more="")
        for i in range(self.parts):
            steps = "".join(_of_part(x, i) + "\n" for x in self.program.steps)
            result = _of_part(self.program.result, i)
            text += f"v0 = tl.maximum(even_{i}, odd_{i}{self._nan})\n{steps}"
            text += f"tl.store({_AT.format(i=i)}, {result}, mask={self._within('mine', q, i)})\n"
            if self.p.halo:
                text += f"v0 = odd_{i}\n{steps}later{q}_{i} = {result}\n"
        return text

    def _joined(self, q: int) -> str:
        """Takes what was kept into the next column's results."""
        text = _ROW.format(q=q, more=" + 1")
        nan = _NAN if self.wide == "tl.float32" else ""
        for i in range(self.parts):
            mask = self._within("next_ok", q, i)
            text += f"there = tl.load({_AT.format(i=i)}, mask={mask}, other=0)\n"
            text += f"more = tl.maximum(there.to({self.wide}), later{q}_{i}.to({self.wide}){nan}).to(there.dtype)\n"
            text += f"tl.store({_AT.format(i=i)}, more, mask={mask})\n"
        return text

    def _split(self) -> str:
        """Makes of `most` [2 * BM, BN] the two columns' tiles [BM, part], even_I and odd_I of part I."""
        part, parts = self.part or self.b.bn, self.parts
        if self.part:
            text = f"pairs = tl.reshape(most, (BM // 8, 2, 8, {parts}, {part // 8}, 4, 2))\n"
            text += "pairs = tl.permute(pairs, (0, 2, 5, 4, 6, 3, 1))\n"
        else:
            text = f"pairs = tl.permute(tl.reshape(most, (BM // 8, 2, 8, {part})), (0, 2, 3, 1))\n"
        shape = f"(BM, {part}, {parts}, 2)" if parts > 1 else f"(BM, {part}, 2)"
        text += f"even_0, odd_0 = tl.split(tl.reshape(pairs, {shape}))\n"
        count = 1
        while count < parts:
            rest = parts // count
            shape = f"(BM, {part}, {rest // 2}, 2)" if rest > 2 else f"(BM, {part}, 2)"
            for side in ("even", "odd"):
                for i in range(count):  # names so far are of parts alike modulo `count`
                    text += f"{side}_{i}, {side}_{i + count} = tl.split(tl.reshape({side}_{i}, {shape}))\n"
            count *= 2
        return text


def _of_part(text: str, index: int) -> str:
    """Text of the program with the names of one part's channels and loads; those of steps serve all parts."""
    return re.sub(r"\b(channel|channel_ok|c_\w+)\b", rf"\1_{index}", text)
