"""Checks that a program computes what its graph says in every order its steps may run in.

Nothing is shared with what lays out memory, which is read as the plan states it; the order is what the runtime will
make. Two rules, at the smallest, the best and the largest sizes of every profile:

- Two launches one of which writes bytes that the other touches are ordered: one is reached from the other through
  those that each waits for.
- In the program's order, the bytes that a step reads were last written by the steps that the build report says it
  reads from.

What a launch writes is known exactly, from the report's shapes and strides; of what it reads the whole buffer counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from temper.ir.dims import Dim, evaluate, parse_dim
from temper.ir.types import itemsize
from temper.plan.format import DimText, HostStep, Launch, Native, Plan, Profile, Ref, SubProgram, TypedRef

#: For each of some launches of a program (or of a sub-program), at these sizes, the earlier ones of them it waits for.
Order = Callable[[Plan, SubProgram | None, Profile, Mapping[str, int], Sequence[Launch]], list[list[int]]]


class Bytes(NamedTuple):
    """`rows` stretches of `width` bytes each, `stride` apart, from `start` on, of one memory: ("arena", 0), or one of
    the arrays that have memory of their own."""

    memory: tuple[str, int]
    start: int
    width: int
    stride: int = 0
    rows: int = 1

    @property
    def end(self) -> int:
        return self.start + self.stride * (self.rows - 1) + self.width

    def meets(self, other: Bytes) -> bool:
        """Some byte is in both; True also where strides differ and only the ends tell that none is."""
        if self.memory != other.memory or min(self.width, self.rows, other.width, other.rows) < 1:
            return False
        if self.end <= other.start or other.end <= self.start:
            return False
        if self.rows > 1 and other.rows > 1:
            apart = (other.start - self.start) % self.stride
            return self.stride != other.stride or apart < self.width or apart + other.width > self.stride
        many, one = (self, other) if self.rows > 1 else (other, self)
        if many.rows == 1:
            return True
        first = max(0, -((many.start + many.width - 1 - one.start) // many.stride))  # the first row that ends behind
        return first < many.rows and many.start + first * many.stride < one.end


class Touch(NamedTuple):
    """What a step may touch of a buffer (kind and index of the `Ref`), and where that begins."""

    buffer: tuple[str, int]
    bytes: Bytes
    at: int


@dataclass(frozen=True)
class Step:
    """A launch or a host step. region: its row of the build report, -1 for none."""

    name: str
    region: int
    reads: tuple[Touch, ...]
    writes: tuple[Touch, ...]


def program_faults(plan: Plan, order: Order | None = None) -> list[str]:
    """What may go wrong, in words; empty if nothing can. order: None for programs whose launches run one after another
    but where they say that they do not wait (`Launch.barrier`)."""
    faults: dict[str, None] = {}
    for unit, profiles in ((None, plan.profiles), *((s, (s.profile,)) for s in plan.subs)):
        for profile in profiles:
            corners = [{s: bounds[k] for s, bounds in profile.symbols.items()} for k in (2, 1, 0)]
            for env in (e for i, e in enumerate(corners) if e not in corners[:i]):
                faults |= dict.fromkeys(_Program(plan, unit, profile, env).faults(order))
    return list(faults)


def unordered(steps: Sequence[Step], before: Sequence[Sequence[int]]) -> list[str]:
    """Pairs of steps that conflict and may run in either order. before: for each the earlier ones it waits for."""
    above: list[int] = []  # as bits
    faults: dict[str, None] = {}
    for i, own in enumerate(before):
        mask = 0
        for j in own:
            mask |= above[j] | 1 << j
        above.append(mask)
        free = ~mask & ((1 << i) - 1)
        while free:
            j = free.bit_length() - 1
            free ^= 1 << j
            faults |= dict.fromkeys(_conflicts(steps[j], steps[i]))
    return list(faults)


def _conflicts(a: Step, b: Step) -> Iterator[str]:
    """Where one of two steps writes what the other touches."""
    for ours, did, theirs, does in (
        (a.writes, "writes", b.writes, "writes"),
        (a.writes, "writes", b.reads, "reads"),
        (a.reads, "reads", b.writes, "writes"),
    ):
        for x, y in ((x.bytes, y.bytes) for x in ours for y in theirs if x.bytes.meets(y.bytes)):
            where = f"bytes {max(x.start, y.start)} to {min(x.end, y.end)} of {_memory(x)}"
            yield f"'{a.name}' {did} and '{b.name}' {does} {where}, in no order"


def _memory(b: Bytes) -> str:
    kind, index = b.memory
    return {"arena": "the arena", "shared": "the shared scratch"}.get(kind, f"{kind} {index}")


class _Program:
    """One program at one set of sizes."""

    def __init__(self, plan: Plan, unit: SubProgram | None, profile: Profile, env: Mapping[str, int]) -> None:
        self.plan, self.unit, self.profile, self.env = plan, unit, profile, env
        self.of = unit or plan
        self.rows: Sequence[Mapping[str, Any]] = plan.report.get("regions", ())
        self._values: dict[str, int | None] = {}

    def faults(self, order: Order | None) -> Iterator[str]:
        steps: list[Step] = []
        for segment in self.of.programs[self.profile.program]:
            if isinstance(segment, HostStep):
                steps.append(self._host(segment))
                continue
            for launches in self._together(segment):
                made = [self._launch(x) for x in launches]
                steps += made
                if order is None:
                    before = _barriers(launches)
                else:
                    before = order(self.plan, self.unit, self.profile, self.env, launches)
                yield from unordered(made, before)
        yield from _misread(steps, self.rows)

    def _together(self, segment: Native) -> Iterator[list[Launch]]:
        """Runs of launches whose sizes are known before the run, those of no blocks left out; others run alone."""
        group: list[Launch] = []
        for x in segment.launches:
            texts = (*x.symbols, x.work, *x.scratch, x.grid, *(r.offset for r in x.args))
            if any(self.value(t) is None for t in texts):
                yield group
                yield [x]
                group = []
            elif self.plan.device == "cpu" or self.value(x.grid):
                group.append(x)
        yield group

    def value(self, d: DimText) -> int | None:
        """None where it depends on data."""
        if isinstance(d, int):
            return d
        if d not in self._values:
            found = parse_dim(d)
            known = not isinstance(found, Dim) or found.symbols <= self.env.keys()
            self._values[d] = evaluate(found, self.env) if known else None
        return self._values[d]

    def _buffer(self, r: Ref) -> Bytes | None:
        """All that an argument may reach; None for what nobody writes."""
        if r.kind == "arena":
            size = self.value(self.of.buffers[r.index].bytes)
            size = self.profile.arena_bytes if size is None else size
            return Bytes(("arena", 0), self.profile.offsets[r.index], size)
        if r.kind in ("output", "host"):
            return Bytes((r.kind, r.index), 0, 1 << 62)
        return Bytes(("shared", 0), 0, 1) if r.kind == "shared" else None

    def _part(self, r: Ref, dtype: str, shape: Sequence[DimText], row_stride: int | None = None) -> Bytes | None:
        """The bytes of a tensor at an argument; its whole buffer where its size depends on data."""
        whole, at = self._buffer(r), self.value(r.offset)
        sizes = [self.value(d) for d in shape]
        known = [s for s in sizes if s is not None]
        if whole is None or at is None or len(known) < len(sizes) or dtype in ("string", "sequence"):
            return whole
        size = itemsize(dtype)
        if row_stride is None or not known:
            return Bytes(whole.memory, whole.start + at, prod(known) * size)
        return Bytes(whole.memory, whole.start + at, known[-1] * size, row_stride * size, prod(known[:-1]))

    def _touch(self, r: Ref, part: Bytes | None) -> Touch | None:
        if part is None:
            return None
        whole = self._buffer(r)
        return Touch((r.kind, r.index), part, (whole or part).start + (self.value(r.offset) or 0))

    def _launch(self, x: Launch) -> Step:
        results = self.rows[x.report].get("results", ()) if 0 <= x.report < len(self.rows) else ()
        parts = {at: self._part(x.args[at], dtype, shape, stride) for _, dtype, shape, stride, at in results}
        reads, writes = [], []
        for k, r in enumerate(x.args):
            if k in x.writes or r.kind == "shared":
                writes.append(self._touch(r, parts.get(k) or self._buffer(r)))
            else:
                reads.append(self._touch(r, self._buffer(r)))
        return Step(x.name, x.report, tuple(filter(None, reads)), tuple(filter(None, writes)))

    def _host(self, x: HostStep) -> Step:
        def touched(given: Sequence[TypedRef | None]) -> tuple[Touch, ...]:
            made = (self._touch(t.ref, self._part(t.ref, t.dtype, t.shape)) for t in given if t is not None)
            return tuple(filter(None, made))

        return Step(x.name or x.op, x.report, touched(x.inputs), touched(x.outputs))


def _barriers(launches: Sequence[Launch]) -> list[list[int]]:
    """A launch that does not wait may overlap with those since the last one that did, and with that one."""
    out: list[list[int]] = []
    last = 0
    for i, x in enumerate(launches):
        last = i if x.barrier else last
        out.append(list(range(last)))
    return out


def _misread(steps: Sequence[Step], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Steps that, one after another, find other bytes than those their sources wrote."""
    wrote: dict[tuple[str, int], list[tuple[int, Bytes]]] = {}  # by memory, in order: the step and what it wrote
    last: dict[int, int] = {}  # of every region, its last step so far
    for j, step in enumerate(steps):
        known = 0 <= step.region < len(rows)
        sources: set[int] = {*rows[step.region].get("inputs", ()), step.region} if known else set()
        for read in step.reads:
            first = Bytes(read.bytes.memory, read.at, min(read.bytes.width, 1))
            made = next((i for i, b in reversed(wrote.get(first.memory, [])) if b.meets(first)), None)
            where = f"'{step.name}' reads byte {first.start} of {_memory(first)}, which"
            if made is None and first.width:
                yield f"{where} nothing has written"
            elif made is not None and known and steps[made].region not in sources:
                yield f"{where} '{steps[made].name}' wrote last, whose results it does not take"
        buffers = {read.buffer for read in step.reads}
        for i in sorted(last[s] for s in sources - {step.region} if s in last):
            for own in (w.bytes for w in steps[i].writes if w.buffer in buffers):
                for k, b in reversed(wrote[own.memory]):
                    taken = steps[k].region in sources  # it may have computed in place
                    if k <= i or (taken and b.rows == 1 and b.start <= own.start and own.end <= b.end):
                        break
                    if not taken and b.meets(own):
                        yield f"'{steps[k].name}' overwrites what '{steps[i].name}' made before '{step.name}' reads it"
        for w in step.writes:
            if w.buffer[0] != "shared":
                wrote.setdefault(w.bytes.memory, []).append((j, w.bytes))
        last[step.region] = j
