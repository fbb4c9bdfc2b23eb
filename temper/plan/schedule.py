"""Schedules a plan's program: pooled constants, buffers with lifetimes, launches of the chosen kernels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from temper.errors import VerificationError
from temper.ir.dims import Dim, DimLike, data_symbols, evaluate, opaque, substitute
from temper.ir.graph import Graph, Value
from temper.ir.types import itemsize
from temper.passes.region import Region
from temper.plan.container import pack_strings
from temper.plan.format import (
    ArenaBuffer,
    Binding,
    DimText,
    HostStep,
    Launch,
    Native,
    Ref,
    Segment,
    Slot,
    TypedRef,
    pack_attrs,
)
from temper.plan.storage import Storage
from temper.tactics.base import Kernel

#: A launch whose whole work takes less than this is not shared out: waking and joining threads would cost more than it
#: saves.
SMALL_SECONDS = 6e-6


@dataclass(frozen=True)
class NativeStep:
    """A region computed by a kernel.

    packed: constants the tactic rearranged.
    seconds: measured time, None if untimed.
    sizes: what the kernel's variables stand for in the graph's symbols; one that is not there is a symbol.
    """

    region: Region
    kernel: Kernel
    packed: tuple[np.ndarray, ...]
    seconds: float | None
    sizes: Mapping[str, DimLike] = field(default_factory=dict)


@dataclass(frozen=True)
class ReferenceStep:
    """A region run by its numpy reference on the host, and why."""

    region: Region
    reason: str


PlannedStep = NativeStep | ReferenceStep


class ConstantPool:
    """Constants laid out one after another at 64-byte boundaries; equal bytes are stored once."""

    def __init__(self) -> None:
        self._at: dict[bytes, int] = {}
        self._parts: list[bytes] = []
        self._size = 0
        #: of read-only arrays by identity, with the array, whose it then stays
        self._digests: dict[int, tuple[np.ndarray, bytes]] = {}

    def add(self, array: np.ndarray) -> int:
        """Offset of the array's bytes."""
        key = self._digest(array)
        if key not in self._at:
            data = pack_strings(array) if array.dtype == object else np.ascontiguousarray(array).tobytes()
            self._at[key] = self._size
            padding = -len(data) % 64 or (64 if not data else 0)
            self._parts += [data, bytes(padding)]
            self._size += len(data) + padding
        return self._at[key]

    def holds(self, array: np.ndarray) -> bool:
        """True if these bytes are here already."""
        return self._digest(array) in self._at

    def _digest(self, array: np.ndarray) -> bytes:
        if id(array) in self._digests:
            return self._digests[id(array)][1]
        data = pack_strings(array) if array.dtype == object else np.ascontiguousarray(array).data
        key = hashlib.sha256(data).digest()
        if not array.flags.writeable:
            self._digests[id(array)] = array, key
        return key

    @property
    def bytes(self) -> bytes:
        return b"".join(self._parts)


@dataclass
class Program:
    """What schedule() makes: a program and its buffers, without memory offsets and code. sizes: bytes of the buffers;
    workspaces, shared: scratch bytes of every kernel."""

    segments: tuple[Segment, ...]
    buffers: tuple[ArenaBuffer, ...]
    sizes: tuple[DimLike, ...]
    slots: tuple[Slot, ...] = ()
    workspaces: tuple[DimLike, ...] = ()
    shared: tuple[DimLike, ...] = ()
    in_place: list[str] = field(default_factory=list)


def schedule(
    graph: Graph,
    storage: Storage,
    steps: Sequence[PlannedStep],
    threads: int,
    pool: ConstantPool | None = None,
    first_buffer: int = 0,
    first_row: int = 0,
    first_slot: int = 0,
    subs: Mapping[int, int] | None = None,
    share: bool = True,
) -> Program:
    """Lays out the program; `steps` are in execution order, one per region of `storage`.

    pool: constants that programs of the same plan share.
    first_buffer, first_row, first_slot: numbers of the program's first buffer, slot, and row of the build report among
        those of the whole plan.
    subs: numbers of the programs made of sub-graphs, by the id() of the graph.
    share: False for buffers that no step takes over from another, and that live to the end.
    """
    numbers = first_buffer, first_row, first_slot
    return _Scheduler(graph, storage, steps, threads, pool or ConstantPool(), numbers, subs or {}, share).run()


class _Scheduler:
    def __init__(
        self,
        graph: Graph,
        storage: Storage,
        steps: Sequence[PlannedStep],
        threads: int,
        pool: ConstantPool,
        numbers: tuple[int, int, int],
        subs: Mapping[int, int],
        share: bool,
    ) -> None:
        self.graph, self.storage, self.steps, self.threads = graph, storage, steps, threads
        self.pool, self.subs, self.share = pool, subs, share
        self.first_buffer, self.first_row, self.first_slot = numbers
        self.slots: dict[int, int] = {}
        self.values = {v.id: v for v in graph.values}
        self.inputs = {v.id: i for i, v in enumerate(graph.inputs)}
        self.outputs = {storage.places[v.id].root: i for i, v in reversed(list(enumerate(graph.outputs)))}
        self.first: dict[int, int] = {}
        self.last: dict[int, int] = {}
        #: root value id -> root that lends it its buffer (in-place)
        self.lender: dict[int, int] = {}
        self.rows: dict[int, int] = {}
        self.in_place: list[str] = []

    def run(self) -> Program:
        self._lifetimes()
        if self.share:
            self._share_buffers()
        spans = self._spans()
        buffers, sizes = self._buffers(spans)
        slots = self._slots(spans)
        segments: list[Segment] = []
        launches: list[Launch] = []
        for row, step in enumerate(self.steps, self.first_row):
            if isinstance(step, NativeStep):
                launches += self._launches(step, row)
            else:
                if launches:
                    segments.append(Native(tuple(launches)))
                    launches = []
                segments.append(self._host(step, row))
        if launches or not segments:
            segments.append(Native(tuple(launches)))
        native = [s for s in self.steps if isinstance(s, NativeStep)]
        return Program(
            tuple(segments),
            buffers,
            sizes,
            slots,
            tuple(w for s in native if not data_symbols(w := substitute(s.kernel.workspace, s.sizes))),
            tuple(w for s in native if not data_symbols(w := substitute(s.kernel.shared_workspace, s.sizes))),
            self.in_place,
        )

    def _touched(self, region: Region) -> list[Value]:
        return [v for v in (*region.inputs, *region.outputs) if v.const is None]

    def _lifetimes(self) -> None:
        for i, step in enumerate(self.steps):
            for v in self._touched(step.region):
                root = self.storage.places[v.id].root
                self.first.setdefault(root, i)
                self.last[root] = i if self.share else len(self.steps) - 1

    def _owns(self, v: Value) -> bool:
        """The value is its whole arena buffer."""
        p = self.storage.places[v.id]
        return p.root == v.id and p.row_stride is None and v.id not in self.inputs and v.id not in self.outputs

    def _share_buffers(self) -> None:
        """In place: output 0 takes over the buffer of an operand that dies here and that the kernel reads element by
        element."""
        for i, step in enumerate(self.steps):
            if not isinstance(step, NativeStep) or not step.kernel.in_place:
                continue
            region = step.region
            out = region.outputs[0]
            if not self._owns(out) or self.first[out.id] != i:
                continue
            anchor_inputs = {
                self.storage.places[v.id].root for v in region.anchor_inputs if v is not None and v.const is None
            }
            start = 0 if region.anchor is None else 1
            for o, v in list(zip(region.epilogue.operands, region.operands, strict=True))[start:]:
                if v.const is not None or o.kind != "full" or itemsize(o.dtype) != itemsize(out.type.dtype):
                    continue
                if (
                    self._owns(v)
                    and self.last[v.id] == i
                    and v.type.count == out.type.count
                    and v.id not in anchor_inputs
                ):
                    self.lender[out.id] = v.id
                    self.in_place.append(region.name)
                    break

    def _owner(self, root: int) -> int:
        while root in self.lender:
            root = self.lender[root]
        return root

    def _spans(self) -> dict[int, tuple[int, int]]:
        """First and last step of every root that owns memory of the run."""
        spans: dict[int, tuple[int, int]] = {}
        for root in self.first:
            if root in self.inputs or root in self.outputs:
                continue
            o = self._owner(root)
            low, high = spans.get(o, (self.first[root], self.last[root]))
            spans[o] = (min(low, self.first[root]), max(high, self.last[root]))
        return spans

    def _slotted(self, root: int) -> bool:
        """The array is made during the run: its size depends on data, or its elements are not plain bytes."""
        t = self.values[root].type
        return bool(t.data_symbols) or t.dtype in ("string", "sequence")

    def _slots(self, spans: Mapping[int, tuple[int, int]]) -> tuple[Slot, ...]:
        slots: list[Slot] = []
        for root, (_, last) in sorted(spans.items(), key=lambda kv: (kv[1], kv[0])):
            if self._slotted(root):
                v = self.values[root]
                self.slots[root] = self.first_slot + len(slots)
                slots.append(Slot(v.name, v.type.dtype, tuple(_text(d) for d in v.type.shape), last))
        return tuple(slots)

    def _buffers(self, spans: Mapping[int, tuple[int, int]]) -> tuple[tuple[ArenaBuffer, ...], tuple[DimLike, ...]]:
        buffers: list[ArenaBuffer] = []
        sizes: list[DimLike] = []
        for root, (first, last) in sorted(spans.items(), key=lambda kv: (kv[1], kv[0])):
            v = self.values[root]
            if self._slotted(root):
                continue
            nbytes = v.type.count * itemsize(v.type.dtype)
            self.rows[root] = self.first_buffer + len(buffers)
            buffers.append(ArenaBuffer(v.name, _text(nbytes), first, last))
            sizes.append(nbytes)
        return tuple(buffers), tuple(sizes)

    def _ref(self, v: Value) -> Ref:
        if v.const is not None:
            return Ref("const", 0, self.pool.add(v.const))
        place = self.storage.places[v.id]
        offset = _text(place.offset)
        if place.root in self.outputs:
            return Ref("output", self.outputs[place.root], offset)
        if place.root in self.inputs:
            return Ref("input", self.inputs[place.root], offset)
        owner = self._owner(place.root)
        if owner in self.slots:
            return Ref("host", self.slots[owner], offset)
        return Ref("arena", self.rows[owner], offset)

    def _launches(self, step: NativeStep, row: int) -> list[Launch]:
        """One launch; of a GPU kernel one for each entry, since each has a grid of its own."""
        whole, kernel = self._launch(step, row), step.kernel
        if not kernel.later:
            return [whole]
        grids = [_text(substitute(g, step.sizes)) for g in (kernel.grid, *kernel.later)]
        return [replace(whole, entries=(e,), grid=g) for e, g in zip(kernel.entries, grids, strict=True)]

    def _launch(self, step: NativeStep, row: int) -> Launch:
        region, kernel = step.region, step.kernel
        args, writes = [], []
        for k, (kind, i) in enumerate(kernel.args):
            if kind == "input":
                v = region.anchor_inputs[i]
                args.append(Ref("null") if v is None else self._ref(v))
            elif kind == "operand":
                args.append(self._ref(region.operands[i]))
            elif kind == "output":
                args.append(self._ref(region.outputs[i]))
                writes.append(k)
            elif kind == "packed":
                args.append(Ref("const", 0, self.pool.add(step.packed[i])))
            else:
                args.append(Ref(kind))
        small = step.seconds is not None and step.seconds * self.threads < SMALL_SECONDS
        return Launch(
            kernel.entries,
            tuple(args),
            tuple(str(step.sizes.get(s, s)) for s in kernel.symbols),
            1 if small else self.threads,
            True,
            tuple(writes),
            region.name,
            row,
            self._work(region),
            self._scratch(step),
            _text(substitute(kernel.grid, step.sizes)),
        )

    @staticmethod
    def _scratch(step: NativeStep) -> tuple[DimText, DimText]:
        """Bytes per thread and shared, where they depend on data."""
        own = substitute(step.kernel.workspace, step.sizes), substitute(step.kernel.shared_workspace, step.sizes)
        return (_text(own[0]), _text(own[1])) if data_symbols(*own) else (0, 0)

    @staticmethod
    def _work(region: Region) -> DimText:
        total: DimLike = 0
        for v in region.outputs:
            total = v.type.count + total
        return _text(total) if data_symbols(total) else 1

    def _host(self, step: ReferenceStep, row: int) -> HostStep:
        node = step.region.nodes[0]
        listed = node.attrs.get("binds")
        return HostStep(
            node.op,
            pack_attrs({k: v for k, v in node.known_attrs.items() if not isinstance(v, Graph)}),
            tuple(None if v is None else self._typed(v) for v in node.inputs),
            tuple(self._typed(v) for v in node.outputs),
            step.reason,
            node.name,
            row,
            tuple(str(d) if str(d) in node.binds else "" for d in listed) if isinstance(listed, tuple) else (),
            tuple(self.subs[id(node.attrs[name])] for name in ("then", "other", "body") if name in node.attrs),
        )

    def _typed(self, v: Value) -> TypedRef:
        """A dense array: no step on the host reads or writes rows that are apart."""
        if v.const is None and self.storage.places[v.id].row_stride is not None:
            raise VerificationError(f"'{v.name}' is a view into wider rows, and a step on the host touches it")
        return TypedRef(self._ref(v), v.type.dtype, tuple(_text(d) for d in v.type.shape))


def binding(v: Value, name: str) -> Binding:
    """A graph's input or output as the plan states it."""
    return Binding(name, v.type.dtype, tuple(_text(d) for d in v.type.shape))


def _text(d: DimLike) -> DimText:
    return str(d) if isinstance(d, Dim) else int(d)


def largest(sizes: Sequence[DimLike], env: Mapping[str, int]) -> int:
    """Greatest of several byte counts under `env`; 0 for none."""
    return max((evaluate(opaque("max", s, 0) if isinstance(s, Dim) else s, env) for s in sizes), default=0)
