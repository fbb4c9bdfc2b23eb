"""From a case of the op library to the workloads a build would make of it, plain and in harder variants.

A variant draws, from the case's name: a run-time leading dimension "N", rows that are slices of wider buffers, a
program of one to four instructions fused behind the anchor, with operands of every broadcast kind, and tensors stored
in a narrower float type, which kernels convert as they load them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from temper.compile.triton import CUDA_ISAS
from temper.errors import ShapeError
from temper.ir.dims import Dim, DimLike
from temper.ir.evaluate import bind, evaluate_values
from temper.ir.graph import Graph, Value
from temper.ir.opdef import AttrValue, Kind
from temper.ir.ops import TABLE, make
from temper.ir.types import TensorType
from temper.passes.layout import LAYOUT
from temper.passes.lower import LOWER, LOWER_FOR_GPUS
from temper.passes.manager import Log, run_passes
from temper.passes.partition import computes, partition
from temper.passes.region import Region
from temper.reference.formats import number
from temper.tactics.base import Workload
from temper.tactics.workload import workload
from temper.tune.verify import Problem, make_problem
from tests.ops.case import Case

Rng = np.random.Generator

#: Ops whose reference is NaN at minus infinity, where the kernels give the limit, 0.
_LIMITS = frozenset({"Gelu", "Silu", "Mish"})

_UNARY: Sequence[tuple[str, dict[str, AttrValue]]] = (
    *((op, {}) for op in ("Relu", "Sigmoid", "Tanh", "HardSwish", "Silu", "Gelu", "Abs", "Neg", "Softplus", "Erf")),
    ("Clip", {"min": -0.5, "max": 6.0}),
    ("LeakyRelu", {"alpha": 0.1}),
    ("HardSigmoid", {}),
)
_BINARY = ("Add", "Sub", "Mul", "Max", "Min")


@dataclass(frozen=True)
class Variant:
    """Which difficulties to add to a case."""

    symbolic: bool = False
    strided: bool = False
    program: bool = False
    stored: str = ""

    def __str__(self) -> str:
        chosen = [k for k in ("symbolic", "strided", "program") if getattr(self, k)]
        return "+".join(chosen + [self.stored] * bool(self.stored)) or "plain"


@dataclass
class Subject:
    """One region of a case's graph. `problem` is made when asked for: most of the time goes there."""

    case: str
    variant: Variant
    region: Region
    workload: Workload
    graph: Graph
    feeds: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        return f"{self.case} {self.variant} {self.region.op}"

    def problem(self) -> Problem:
        """What the region reads in this graph, with the outputs and bounds the references give."""
        region, env = self.region, bind(self.graph, self.feeds)
        read = [v for v in (*region.anchor_inputs, *region.operands) if v is not None]
        arrays = evaluate_values(self.graph, self.feeds, read)
        rank = region.outputs[0].type.rank
        constants = {i: arrays[v.id] for i, v in enumerate(region.anchor_inputs) if v is not None}
        operands = {i: _full_rank(arrays[v.id], rank) for i, v in enumerate(region.operands)}
        return make_problem(self.workload, constants, env, operand_constants=operands)

    def constants(self) -> dict[int, np.ndarray]:
        """Anchor inputs known at build time."""
        return {i: v.const for i, v in enumerate(self.region.anchor_inputs) if v is not None and v.const is not None}


def subjects(case: Case, isa: str, variant: Variant) -> list[Subject]:
    """The case's regions as workloads; empty where the variant cannot be made of it."""
    rng = np.random.default_rng(zlib.crc32(f"{case.name} {variant}".encode()))
    made = _graph(case, variant.symbolic)
    if made is None:
        return []
    graph, feeds = made
    run_passes(graph, (LAYOUT, LOWER_FOR_GPUS if isa in CUDA_ISAS else LOWER))
    graph.prune()
    if variant.program:
        if not _append_program(graph, feeds, rng):
            return []
        # what a program makes of infinities and NaN is its ops' own affair, and tested plain
        feeds = {k: _tame(a, 1e6) for k, a in feeds.items()}
    elif case.op in _LIMITS:
        feeds = {k: _tame(a, 1e38) for k, a in feeds.items()}
    if variant.stored:
        feeds = {k: _tame(a, 6e4) for k, a in feeds.items()}
        if not _store_narrow(graph, variant.stored):
            return []
    regions = partition(graph, Log(), prologues=bool(variant.stored))
    strides = _strides(regions, rng) if variant.strided else {}
    if variant.strided and not strides:
        return []
    return [Subject(case.name, variant, r, workload(r, isa, 1, strides), graph, feeds) for r in regions]


#: Products, whose weights are stored as narrow as their data.
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul"})


def _store_narrow(graph: Graph, dtype: str) -> bool:
    """Stores in a narrow float type what anchors read as float32, and the weights of products; False if none does."""
    found = False
    for node in graph.nodes:
        if TABLE[node.op].kind is Kind.ELEMENTWISE or not computes(node):
            continue
        for i, v in enumerate(list(node.inputs)):
            if v is None or v.type.dtype != "float32" or (v.const is not None and (node.op not in _PRODUCTS or i != 1)):
                continue
            if v.const is None:
                half = make(graph, "Cast", [v], {"to": dtype}).output
            else:
                half = graph.add_constant(number(v.const, dtype), f"{v.name}.{dtype}", dtype)
            graph.set_input(node, i, make(graph, "Cast", [half], {"to": "float32"}).output)
            found = True
    graph.prune()
    return found


def _tame(a: np.ndarray, most: float) -> np.ndarray:
    if a.dtype.kind != "f":
        return a
    limit = min(most, float(np.finfo(a.dtype).max))
    return np.nan_to_num(a.clip(-limit, limit), nan=0.5)


def _full_rank(array: np.ndarray, rank: int) -> np.ndarray:
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def _graph(case: Case, symbolic: bool) -> tuple[Graph, dict[str, np.ndarray]] | None:
    """A graph of one node and its feeds. symbolic: leading axes as long as the first operand's are "N"."""
    graph = Graph(case.name)
    feeds: dict[str, np.ndarray] = {}
    inputs: list[Value | None] = []
    lead: int | None = None
    for i, a in enumerate(case.arrays()):
        if a is None:
            inputs.append(None)
        elif i in case.constants:
            inputs.append(graph.add_constant(a, f"c{i}", case.type_of(i, a).dtype))
        else:
            kind = case.type_of(i, a).dtype
            shape: tuple[DimLike, ...] = a.shape
            if symbolic and a.ndim and lead in (None, a.shape[0]):
                lead = a.shape[0]
                shape = (Dim.symbol("N"), *shape[1:])
            feeds[f"x{i}"] = a
            inputs.append(graph.add_input(f"x{i}", TensorType(kind, shape)))
    if symbolic and lead is None:
        return None
    attrs = dict(case.attrs)
    for name in ("shape", "sizes"):
        sizes = attrs.get(name)
        if symbolic and isinstance(sizes, tuple) and sizes and sizes[0] == lead and case.op != "Split":
            attrs[name] = (Dim.symbol("N"), *sizes[1:])
    try:
        node = make(graph, case.op, inputs, attrs, name=case.name)
    except ShapeError:
        if symbolic:
            return None  # the op needs this axis to be known, as a contraction of two operands does
        raise
    env = {"N": lead or 0}
    made = [o.type.bind(env) for o in node.outputs]
    if symbolic and made != TABLE[case.op].infer(case.types(), TABLE[case.op].complete(case.attrs)):
        return None  # inference takes a symbol to be large, which this case's size is not
    graph.set_outputs(node.outputs)
    return graph, feeds


def _append_program(graph: Graph, feeds: dict[str, np.ndarray], rng: Rng) -> bool:
    """Puts one to four elementwise nodes behind one float32 value, and rounding to codes at times; False if there is
    none."""
    places = [n.output for n in graph.nodes if len(n.outputs) == 1 and n.output.type.dtype == "float32"]
    anchors = [v for v in places if v.producer is not None and TABLE[v.producer.op].kind is not Kind.ELEMENTWISE]
    places = [v for v in anchors or places if v.producer is not None and v.producer.op != "Reshape"]
    if not places:
        return False
    start = places[int(rng.integers(len(places)))]
    readers, seen = list(start.uses), graph.is_output(start)
    y, steps = start, [start]
    for _ in range(int(rng.integers(1, 5))):
        if rng.random() < 0.4:
            op, attrs = _UNARY[int(rng.integers(len(_UNARY)))]
            y = make(graph, op, [y], attrs).output
        else:
            pair = [y, _operand(graph, feeds, start, rng)]
            if rng.random() < 0.3:
                pair.reverse()
            if rng.random() < 0.2:
                y = make(graph, "Where", [make(graph, "Less", pair).output, *pair]).output
            else:
                y = make(graph, _BINARY[int(rng.integers(len(_BINARY)))], pair).output
        steps.append(y)
    if not readers and rng.random() < 0.3:
        to, zero = (("int8", 0), ("int8", -3), ("uint8", 0), ("uint8", 9))[int(rng.integers(4))]
        y = make(graph, "Saturate", [y], {"to": to, "zero_point": zero}).output
    for node, i in readers:
        graph.set_input(node, i, y)
    outputs = [y if v is start else v for v in graph.outputs] if seen else list(graph.outputs)
    if rng.random() < 0.4 and len(steps) > 2:
        outputs.append(steps[int(rng.integers(len(steps) - 1))])
    graph.set_outputs(outputs)
    return True


def _operand(graph: Graph, feeds: dict[str, np.ndarray], like: Value, rng: Rng) -> Value:
    """A float32 input or constant that broadcasts to `like` in a random way."""
    shape = like.type.shape
    rank = len(shape)
    masks = [(True,) * rank, (False,) * (rank - 1) + (True,) * (rank > 0), (False,) * rank]
    if rank > 2:
        masks += [(True, *(False,) * (rank - 2), True), (True,) * (rank - 1) + (False,), (True, *(False,) * (rank - 1))]
    mask = masks[int(rng.integers(len(masks)))]
    kept = tuple(d if m else 1 for d, m in zip(shape, mask, strict=True))
    env = bind(graph, feeds)
    sizes = TensorType("float32", kept).bind(env).shape
    array = rng.standard_normal(tuple(int(str(d)) for d in sizes)).astype(np.float32)
    if rng.random() < 0.5 and all(isinstance(d, int) for d in kept):
        return graph.add_constant(array)
    name = f"operand{len(graph.inputs)}"
    feeds[name] = array
    return graph.add_input(name, TensorType("float32", kept))


def _strides(regions: Sequence[Region], rng: Rng) -> dict[int, int]:
    """Row strides for a random choice of what regions read and write: full tensors with rows of known size."""
    out: dict[int, int] = {}
    for region in regions:
        shape = region.outputs[0].type.shape
        full = [v for v in region.operands if v.type.shape == shape]
        for v in dict.fromkeys((*(v for v in region.anchor_inputs if v is not None), *full, *region.outputs)):
            row = v.type.shape[-1] if v.type.rank > 1 else None
            if v.const is None and isinstance(row, int) and row > 0 and rng.random() < 0.7:
                out[v.id] = row + int(rng.integers(1, 20))
    return out


def variants() -> Iterator[Variant]:
    """Every combination of difficulties but the plain case."""
    for bits in range(1, 8):
        yield Variant(bool(bits & 1), bool(bits & 2), bool(bits & 4))
