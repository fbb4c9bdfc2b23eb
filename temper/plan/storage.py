"""Assigns storage to every value: which ones are views (slices of wider rows, renamed shapes) and which own a buffer.

A Concat or Split along the last axis, or along an axis with nothing but ones before it, moves no data: producers write
and consumers read rows of a wider buffer. Where a kernel at either end cannot do that, an Identity (a copy) is put
between, and the reason is logged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from temper.ir.dims import Dim, DimLike, product
from temper.ir.graph import Graph, Node, Value
from temper.ir.ops import make
from temper.ir.types import itemsize
from temper.passes.manager import Log
from temper.passes.partition import VIEW_OPS, order_regions
from temper.passes.region import Region

#: Can some kernel compute this region when the values have these row strides?
Accepts = Callable[[Region, Mapping[int, int]], bool]


@dataclass(frozen=True)
class Place:
    """A value's bytes: `offset` bytes (int or Dim) into the buffer owned by value `root`; rows `row_stride` elements
    apart, None when dense."""

    root: int
    offset: DimLike = 0
    row_stride: int | None = None


@dataclass(frozen=True)
class Storage:
    """regions: in execution order, copies included, view-only ones gone. places: by value id, for all non-constant
    values."""

    regions: list[Region]
    places: dict[int, Place]

    @property
    def strides(self) -> dict[int, int]:
        return {v: p.row_stride for v, p in self.places.items() if p.row_stride is not None}


def assign_storage(
    graph: Graph, regions: list[Region], accepts: Accepts, log: Log, alignment: int = 1
) -> Storage:
    """Decides views, inserts the copies they need, and gives every value its place.

    alignment: bytes that every dense tensor starts at a multiple of, as kernels expect it.
    """
    return _Assigner(graph, regions, accepts, log, alignment).run()


def _renamed(v: Value) -> Value:
    """The value that `v` is another name of."""
    while v.producer is not None and v.producer.op in VIEW_OPS:
        source = v.producer.inputs[0]
        assert source is not None
        v = source
    return v


class _Assigner:
    def __init__(
        self, graph: Graph, regions: list[Region], accepts: Accepts, log: Log, alignment: int
    ) -> None:
        self.graph, self.accepts, self.log, self.alignment = graph, accepts, log, alignment
        self.regions = regions
        self.owner: dict[int, Region] = {n.id: r for r in regions for n in r.all_nodes}
        self.strides: dict[int, int] = {}
        #: value id -> (parent value, offset in elements): the value is a piece of its parent's buffer
        self.parent: dict[int, tuple[Value, DimLike]] = {}
        self.gone: set[int] = set()
        self._replaced: list[Region] = []  # kept alive: `gone` holds their ids

    def run(self) -> Storage:
        # a piece's stride is its whole's, so wholes come first: outer concats before inner ones, and splits of both
        # after them
        for region in reversed(list(self.regions)):
            if region.op == "Concat" and self._viewed(region):
                self._concat(region)
        for anchor in [r.anchor for r in self.regions if r.op == "Split" and r.anchor is not None]:
            region = self.owner[anchor.id]  # as it is now: a copy behind one split replaces the regions of the next
            if self._viewed(region):
                self._split(region)
        self._outputs()
        regions = order_regions([r for r in self.regions if id(r) not in self.gone])
        return Storage(regions, self._places())

    @staticmethod
    def _axis(region: Region) -> int:
        assert region.anchor is not None
        axis = region.anchor.attrs["axis"]
        assert isinstance(axis, int)
        return axis % region.anchor.outputs[0].type.rank

    @staticmethod
    def _sliceable(whole: Value | None, axis: int) -> bool:
        """Rows can be sliced: the axis is last (and static), or everything before it is 1."""
        assert whole is not None
        shape = whole.type.shape
        return all(d == 1 for d in shape[:axis]) or (axis == len(shape) - 1 and isinstance(shape[axis], int))

    def _viewed(self, region: Region) -> bool:
        """A Concat or Split that moves no data."""
        if region.op not in ("Concat", "Split") or region.anchor is None:
            return False
        whole = region.anchor.inputs[0] if region.op == "Split" else region.anchor.output
        assert whole is not None
        if region.op == "Concat" and whole.type.data_symbols:
            return False  # its parts may be written before its size is known
        return whole.const is None and self._sliceable(whole, self._axis(region)) and self._aligned(region, whole)

    def _aligned(self, region: Region, whole: Value) -> bool:
        """Every piece starts where a dense tensor may, be it whole or a slice of every row."""
        axis = self._axis(region)
        if self.alignment == 1:
            return True
        anchor = region.anchor
        assert anchor is not None
        step = product(whole.type.shape[axis + 1 :]) * itemsize(whole.type.dtype)
        before: DimLike = 0
        for v in anchor.outputs if region.op == "Split" else anchor.inputs:
            assert v is not None
            at = before * step
            if any(n % self.alignment for n in (at.terms.values() if isinstance(at, Dim) else [at])):
                self.log.did_not(
                    f"{region.op.lower()} without a copy", anchor.name,
                    f"'{v.name}' would not start at a multiple of {self.alignment} bytes",
                )  # fmt: skip
                return False
            before = v.type.shape[axis] + before
        return True

    def _stride(self, whole: Value, axis: int) -> int | None:
        """Row stride of a slice along `axis` of `whole`: None where slices are contiguous."""
        shape = whole.type.shape
        if all(d == 1 for d in shape[:axis]):
            return self.strides.get(whole.id) if axis < len(shape) - 1 else None
        last = shape[-1]
        assert isinstance(last, int)
        return self.strides.get(whole.id, last)

    @staticmethod
    def _step(whole: Value, axis: int, stride: int | None) -> DimLike:
        """Elements from one index of `axis` to the next."""
        shape = whole.type.shape
        if stride is None or axis == len(shape) - 1:
            return product(shape[axis + 1 :])
        return product(shape[axis + 1 : -1]) * stride

    def _can_stride(self, v: Value, stride: int, producer_too: bool) -> str | None:
        """None if every kernel that touches `v` can deal with rows `stride` apart, else who cannot."""
        if self.graph.is_output(v):
            return "it is an output of the model"
        trial = {**self.strides, v.id: stride}
        nodes: list[Node] = ([v.producer] if producer_too and v.producer is not None else []) + v.users
        for n in nodes:
            if n.op in VIEW_OPS:
                return f"'{n.name}' reshapes it"
            region = self.owner.get(n.id)
            if region is None or id(region) in self.gone or self._viewed(region):
                continue  # a view takes any stride, or gets a copy
            if not self.accepts(region, trial):
                return f"no kernel of '{region.name}' ({region.op}) takes rows {stride} apart"
        return None

    def _split(self, region: Region) -> None:
        node = region.anchor
        assert node is not None and node.inputs[0] is not None
        whole, axis = node.inputs[0], self._axis(region)
        stride = self._stride(whole, axis)
        self.gone.add(id(region))
        before: DimLike = 0
        inner = self._step(whole, axis, stride)
        for out in node.outputs:
            self.parent[out.id] = (whole, before * inner)
            before = out.type.shape[axis] + before
            if stride is None:
                continue
            self.strides[out.id] = stride
            reason = self._can_stride(out, stride, producer_too=False)
            if reason is not None:
                self.log.did_not("split without a copy", node.name, reason)
                del self.strides[out.id]
                self._copy_after(out)
                self.strides[out.id] = stride

    def _concat(self, region: Region) -> None:
        node = region.anchor
        assert node is not None
        whole, axis = node.output, self._axis(region)
        stride = self._stride(whole, axis)
        inner = self._step(whole, axis, stride)
        self.gone.add(id(region))
        before: DimLike = 0
        for i, v in enumerate(list(node.inputs)):
            assert v is not None
            # contiguous pieces stay dense, so a renamed tensor can be placed by its first name
            piece = _renamed(v) if stride is None else v
            reason = self._placeable(piece, node)
            if reason is None and stride is not None:
                reason = self._can_stride(v, stride, producer_too=True)
            if reason is not None:
                self.log.did_not("concat without a copy", node.name, f"input {i} is copied: {reason}")
                piece = self._copy_before(v, node, i)
            self.parent[piece.id] = (whole, before * inner)
            if stride is not None:
                self.strides[piece.id] = stride
            before = v.type.shape[axis] + before

    def _placeable(self, v: Value, concat: Node) -> str | None:
        if v.producer is None:
            return "it is an input or a constant of the model"
        if v.id in self.parent:
            return "it is already a part of another tensor"
        if v.producer.op in VIEW_OPS:
            return f"'{v.producer.name}' only renames another tensor"
        owner = self.owner.get(v.producer.id)
        if owner is not None and owner.op == "Split" and self._viewed(owner):
            return "it is a part of another tensor"
        if self.graph.is_output(v):
            return "it is an output of the model"
        if sum(1 for n, _ in v.uses if n is concat) > 1:
            return "it occurs more than once"
        return None

    def _identity(self, v: Value) -> Value:
        node = make(self.graph, "Identity", [v], name=f"{v.name}.copy", origin=("rule:copy",))
        region = Region(None, (node,), (node.output,))
        self.regions.append(region)
        self.owner[node.id] = region
        return node.output

    def _copy_before(self, v: Value, user: Node, index: int) -> Value:
        out = self._identity(v)
        self.graph.set_input(user, index, out)
        return out

    def _copy_after(self, v: Value) -> None:
        uses = list(v.uses)
        out = self._identity(v)
        for user, i in uses:
            self.graph.set_input(user, i, out)
        if self.graph.is_output(v):
            self.graph.outputs = [out if o is v else o for o in self.graph.outputs]
        self._refresh({u.id for u, _ in uses})

    def _refresh(self, nodes: set[int]) -> None:
        """Regions whose inputs changed forget what they had derived from them."""
        for i, r in enumerate(self.regions):
            if any(n.id in nodes for n in r.all_nodes):
                fresh = replace(r)
                if id(r) in self.gone:
                    self.gone.add(id(fresh))
                self._replaced.append(r)
                self.regions[i] = fresh
                for n in r.all_nodes:
                    self.owner[n.id] = fresh

    def _root(self, v: Value) -> tuple[Value, DimLike]:
        """The buffer's owner and the offset in elements."""
        offset: DimLike = 0
        while True:
            if v.id in self.parent:
                v, more = self.parent[v.id]
                offset = more + offset
            elif v.producer is not None and v.producer.op in VIEW_OPS:
                first = v.producer.inputs[0]
                assert first is not None
                v = first
            else:
                return v, offset

    def _outputs(self) -> None:
        """Every output of the model must own its buffer from the first byte: otherwise it gets a copy."""
        taken: set[int] = set()
        for i, v in enumerate(list(self.graph.outputs)):
            root, _ = self._root(v)
            whole = root.type.count == v.type.count
            if root.producer is None or root.id in taken or v.id in self.strides or not whole:
                self.graph.outputs[i] = v = self._identity(v)
                root = v
            taken.add(root.id)

    def _places(self) -> dict[int, Place]:
        out = {}
        for v in self.graph.values:
            if v.const is None:
                root, offset = self._root(v)
                out[v.id] = Place(root.id, offset * itemsize(v.type.dtype), self.strides.get(v.id))
        return out
