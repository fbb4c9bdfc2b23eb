"""The graph: values and nodes in SSA form, edited only through `Graph`'s methods.

Order is not stored: `Graph.nodes` is a topological order, stable in order of creation, computed when needed, so that a
rewrite never has to say where its nodes go.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from temper.ir.derived import Derived
from temper.ir.dims import Dim, from_data
from temper.ir.opdef import Attrs, AttrValue
from temper.ir.types import TensorType

#: ops whose result holds every element of their input once, and nothing else
REARRANGES = frozenset({"Identity", "Reshape", "Transpose"})


class Value:
    """A tensor: a graph input, a constant (`const` set), or a node's output (`producer` set)."""

    __slots__ = ("id", "name", "type", "producer", "index", "uses", "const", "sources")

    def __init__(self, id: int, name: str, type: TensorType, const: np.ndarray | None = None) -> None:
        self.id = id
        self.name = name
        self.type = type
        self.producer: Node | None = None
        self.index = 0
        #: (node, input position) pairs, in order of creation; graph outputs are not uses (see Graph.is_output)
        self.uses: list[tuple[Node, int]] = []
        self.const = const
        #: the source model's names for what this tensor holds, whatever the order of its axes; the latest first
        self.sources: tuple[str, ...] = ()

    def known_as(self, names: Sequence[str]) -> None:
        """It holds these tensors of the source model too, and so does what it only is another view of."""
        v: Value | None = self if names else None
        while v is not None and v.const is None:
            v.sources = tuple(dict.fromkeys((*names, *v.sources)))
            v = v.producer.inputs[0] if v.producer is not None and v.producer.op in REARRANGES else None

    @property
    def users(self) -> list[Node]:
        """Distinct nodes that read this value."""
        return list(dict.fromkeys(n for n, _ in self.uses))

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Node:
    """One application of an op. Inputs may be None where an optional operand is absent."""

    __slots__ = ("id", "op", "inputs", "outputs", "attrs", "name", "origin")

    def __init__(self, id: int, op: str, attrs: Mapping[str, AttrValue], name: str, origin: tuple[str, ...]) -> None:
        self.id = id
        self.op = op
        self.inputs: list[Value | None] = []
        self.outputs: list[Value] = []
        self.attrs: dict[str, AttrValue] = dict(attrs)
        self.name = name
        #: names of the source nodes this one stands for, then "rule:NAME" of every rule applied
        self.origin = origin

    @property
    def output(self) -> Value:
        """The only output; ValueError if there are several."""
        (out,) = self.outputs
        return out

    @property
    def names(self) -> tuple[str, ...]:
        """Names a pattern may call it by: its own, those of the source nodes it stands for, its results'."""
        sources = (o for o in self.origin if not o.startswith("rule:"))
        return tuple(dict.fromkeys((self.name, *sources, *(v.name for v in self.outputs))))

    @property
    def binds(self) -> tuple[str, ...]:
        """Symbols whose values this node finds at run time: those in `count` are sizes of its results, those in `binds`
        elements of its first result."""
        return tuple(
            str(d)
            for key in BINDING_ATTRS
            if key in self.attrs
            for d in _flat(self.attrs[key])
            if isinstance(d, Dim) and from_data(str(d)) and str(d).isidentifier()
        )

    @property
    def known_attrs(self) -> dict[str, AttrValue]:
        """The attributes that do not mention a symbol which the node itself binds."""
        own = set(self.binds)
        return {
            k: v
            for k, v in self.attrs.items()
            if k not in BINDING_ATTRS
            and not any(isinstance(d, Dim) and not own.isdisjoint(d.symbols) for d in _flat(v))
        }

    @property
    def reads(self) -> frozenset[str]:
        """Symbols depending on data that its other attributes, and the graphs in them, mention but do not bind."""
        found: set[str] = set()
        for key, value in self.attrs.items():
            if key in BINDING_ATTRS or isinstance(value, (int, float, str)):
                continue
            for d in _flat(value):
                if isinstance(d, Graph):
                    found |= d.free_symbols
                elif isinstance(d, Dim):
                    found |= {s for s in d.symbols if from_data(s)}
        return frozenset(found)

    def __repr__(self) -> str:
        return f"{self.op} '{self.name}'"


#: Attributes that hold the symbols a node binds.
BINDING_ATTRS = ("count", "binds")


def _flat(value: object) -> Iterator[object]:
    """The elements of nested tuples."""
    if isinstance(value, tuple):
        for v in value:
            yield from _flat(v)
    else:
        yield value


class Graph:
    """A computation. Construct empty, then `add_input`, `add_constant`, `add_node`, `set_outputs`."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.output_names: list[str] = []
        #: symbol -> the source model's name for that dimension, where the two differ
        self.dim_names: dict[str, str] = {}
        self._nodes: dict[int, Node] = {}
        self._values: dict[int, Value] = {}
        self._names: set[str] = set()
        self._next = 0
        self._order: list[Node] | None = None
        self._edits = 0
        #: the half type that most of the model computes in, by its own types; "" if it does not
        self.half = ""
        #: what is computed of constants, which graphs of the same model share
        self.derived = Derived()

    # ---- reading ----

    @property
    def edits(self) -> int:
        """How many edits there were: a graph that has as many as before, those in its nodes' attributes included, is as
        it was."""
        inner = (a.edits for n in self._nodes.values() for a in n.attrs.values() if isinstance(a, Graph))
        return self._edits + sum(inner)

    @property
    def nodes(self) -> list[Node]:
        """All nodes, producers first; a fresh list, safe to edit the graph while iterating. ValueError on a cycle."""
        if self._order is None:
            waiting: dict[int, int] = {}
            ready: list[int] = []
            waits = self._symbol_edges()
            for n in self._nodes.values():
                count = sum(1 for v in n.inputs if v is not None and v.producer is not None)
                count += sum(n.id in later for later in waits.values())
                waiting[n.id] = count
                if not count:
                    heapq.heappush(ready, n.id)
            order = []
            while ready:
                n = self._nodes[heapq.heappop(ready)]
                order.append(n)
                users = [user.id for out in n.outputs for user, _ in out.uses]
                for user_id in (*users, *waits.get(n.id, ())):
                    waiting[user_id] -= 1
                    if not waiting[user_id]:
                        heapq.heappush(ready, user_id)
            if len(order) != len(self._nodes):
                stuck = [repr(self._nodes[i]) for i, c in waiting.items() if c > 0]
                raise ValueError(f"the graph has a cycle through {', '.join(stuck[:8])}")
            self._order = order
        return list(self._order)

    @property
    def binders(self) -> dict[str, Node]:
        """The node that binds each symbol that depends on data."""
        return {s: n for n in self._nodes.values() for s in n.binds}

    def _symbol_edges(self) -> dict[int, set[int]]:
        """Id of each node that binds symbols -> ids of the nodes that mention them in their attributes.

        A symbol in a node's types alone is not an edge: it comes from an operand, whose producer waited for it.
        """
        binders = self.binders
        edges: dict[int, set[int]] = {n.id: set() for n in binders.values()}
        if edges:
            for n in self._nodes.values():
                for s in n.reads & binders.keys():
                    if binders[s] is not n:
                        edges[binders[s].id].add(n.id)
        return edges

    @property
    def free_symbols(self) -> frozenset[str]:
        """Symbols depending on data that the nodes mention and neither they nor the graph's inputs bind."""
        bound = {str(d) for v in self.inputs for d in v.type.shape if isinstance(d, Dim)} | self.binders.keys()
        used = frozenset().union(
            *(n.reads for n in self._nodes.values()),
            *(v.type.data_symbols for v in self._values.values()),
        )
        return frozenset(used - bound)

    @property
    def values(self) -> list[Value]:
        """Every value still in the graph."""
        return list(self._values.values())

    @property
    def constants(self) -> list[Value]:
        return [v for v in self._values.values() if v.const is not None]

    def alive(self, node: Node) -> bool:
        """True until the node is removed: for loops over `nodes` that edit the graph."""
        return self._nodes.get(node.id) is node

    def is_output(self, value: Value) -> bool:
        return any(v is value for v in self.outputs)

    # ---- building ----

    def _fresh(self, name: str) -> str:
        base, k = name or "t", 0
        while name in self._names or not name:
            k += 1
            name = f"{base}.{k}"
        self._names.add(name)
        return name

    def _value(self, name: str, type: TensorType, const: np.ndarray | None = None) -> Value:
        v = Value(self._next, self._fresh(name), type, const)
        self._next += 1
        self._edits += 1
        self._values[v.id] = v
        return v

    def add_input(self, name: str, type: TensorType) -> Value:
        """A new graph input; its name must be free."""
        if name in self._names:
            raise ValueError(f"the name {name!r} is taken")
        v = self._value(name, type)
        self.inputs.append(v)
        return v

    def add_constant(self, array: np.ndarray, name: str = "c", dtype: str | None = None) -> Value:
        """A constant. The array is made read-only; types numpy lacks arrive as their storage, with dtype."""
        array = np.ascontiguousarray(array) if array.ndim else array.copy()
        array.flags.writeable = False
        kind = dtype or ("string" if array.dtype.kind in "OUS" else str(array.dtype))
        return self._value(name, TensorType(kind, array.shape), array)

    def add_node(
        self,
        op: str,
        inputs: Sequence[Value | None],
        types: Sequence[TensorType],
        attrs: Attrs | None = None,
        *,
        name: str = "",
        origin: tuple[str, ...] = (),
        output_names: Sequence[str] = (),
    ) -> Node:
        """A new node whose outputs have the given types. Use `ir.ops.make` to infer the types from the op table."""
        node = Node(self._next, op, attrs or {}, name or f"{op}_{self._next}", origin)
        self._next += 1
        for i, v in enumerate(inputs):
            if v is not None:
                if self._values.get(v.id) is not v:
                    raise ValueError(f"{node!r} reads {v!r}, which is not in this graph")
                v.uses.append((node, i))
            node.inputs.append(v)
        for i, t in enumerate(types):
            out = self._value(
                output_names[i] if i < len(output_names) else (f"{node.name}" if i == 0 else f"{node.name}:{i}"), t
            )
            out.producer, out.index = node, i
            node.outputs.append(out)
        self._nodes[node.id] = node
        self._order = None
        self._edits += 1
        return node

    def order_inputs(self, values: Iterable[Value]) -> None:
        """Puts the graph's inputs in this order."""
        ordered = list(values)
        if sorted(v.id for v in ordered) != sorted(v.id for v in self.inputs):
            raise ValueError("these are not the graph's inputs")
        self.inputs = ordered
        self._edits += 1

    def set_outputs(self, values: Iterable[Value], names: Iterable[str] | None = None) -> None:
        """States the graph's outputs and the names callers see (a value may be listed twice)."""
        self.outputs = list(values)
        self.output_names = list(names) if names is not None else [v.name for v in self.outputs]
        if len(self.outputs) != len(self.output_names):
            raise ValueError("every output needs a name")
        self._edits += 1

    # ---- editing ----

    def set_input(self, node: Node, index: int, value: Value | None) -> None:
        """Redirects one input of a node."""
        old = node.inputs[index]
        if old is not None:
            old.uses.remove((node, index))
        node.inputs[index] = value
        if value is not None:
            value.uses.append((node, index))
        self._order = None
        self._edits += 1

    def rename(self, value: Value, name: str) -> None:
        """Gives a value another name, made unique."""
        self._names.discard(value.name)
        value.name = self._fresh(name)
        self._edits += 1

    def replace_uses(self, old: Value, new: Value) -> None:
        """Every reader of `old`, graph outputs included, reads `new` instead, which holds the same: it takes over the
        names of the source model. Types must agree."""
        if old is new:
            return
        if old.type != new.type:
            raise ValueError(f"{old!r} cannot be replaced by {new!r}: the types differ")
        new.known_as(old.sources)
        for node, i in list(old.uses):
            self.set_input(node, i, new)
        if self.is_output(old):
            self.outputs = [new if v is old else v for v in self.outputs]
            self._edits += 1

    def remove_node(self, node: Node) -> None:
        """Deletes a node nobody reads."""
        for out in node.outputs:
            if out.uses or self.is_output(out):
                raise ValueError(f"{node!r} is still read through {out!r}")
        for i, v in enumerate(node.inputs):
            if v is not None:
                v.uses.remove((node, i))
        for out in node.outputs:
            del self._values[out.id]
            self._names.discard(out.name)
        del self._nodes[node.id]
        self._order = None
        self._edits += 1

    def remove_constant(self, value: Value) -> None:
        """Deletes a constant nobody reads."""
        if value.uses or self.is_output(value) or value.const is None:
            raise ValueError(f"{value!r} is not an unused constant")
        del self._values[value.id]
        self._names.discard(value.name)
        self._edits += 1

    def prune(self) -> int:
        """Deletes nodes and constants that no output depends on; returns how many nodes went.

        A node also depends on those that bind the symbols in its attributes.
        """
        gone = 0
        binders = self.binders
        later: set[str] = set()
        for node in reversed(self.nodes):
            read = any(o.uses or self.is_output(o) for o in node.outputs)
            if read or (binders and not later.isdisjoint(node.binds)):
                later |= node.reads if binders else frozenset()
                continue
            self.remove_node(node)
            gone += 1
        for v in self.constants:
            if not v.uses and not self.is_output(v):
                self.remove_constant(v)
        return gone

    def copy(self) -> Graph:
        """An independent graph with the same names; constant arrays are shared (they are read-only)."""
        out = Graph(self.name)
        out.derived, out.half = self.derived, self.half
        at: dict[int, Value] = {}
        for v in self.inputs:
            at[v.id] = out.add_input(v.name, v.type)
        for v in self.constants:
            assert v.const is not None
            at[v.id] = out.add_constant(v.const, v.name, v.type.dtype)
        for n in self.nodes:
            m = out.add_node(
                n.op,
                [None if v is None else at[v.id] for v in n.inputs],
                [o.type for o in n.outputs],
                {k: a.copy() if isinstance(a, Graph) else a for k, a in n.attrs.items()},
                name=n.name,
                origin=n.origin,
                output_names=[o.name for o in n.outputs],
            )
            for o, p in zip(n.outputs, m.outputs, strict=True):
                at[o.id] = p
        for v in self.values:
            at[v.id].sources = v.sources
        out.set_outputs([at[v.id] for v in self.outputs], self.output_names)
        out.dim_names = dict(self.dim_names)
        return out

    def hash(self) -> str:
        """SHA-256 of the computation: structure, types, attributes and constants; independent of inner names and
        ids."""
        h = hashlib.sha256()
        number: dict[int, int] = {}

        def ref(v: Value | None) -> str:
            if v is None:
                return "_"
            if v.id not in number:
                number[v.id] = len(number)
                if v.const is not None:
                    data = v.const.tobytes() if v.const.dtype.kind != "O" else repr(v.const.tolist()).encode()
                    h.update(f"const {number[v.id]} {v.type} ".encode() + hashlib.sha256(data).digest())
            return str(number[v.id])

        for v in self.inputs:
            h.update(f"input {ref(v)} {v.name} {v.type}\n".encode())
        for n in self.nodes:
            ins = ",".join(ref(v) for v in n.inputs)
            attrs = ";".join(f"{k}={attr_text(n.attrs[k])}" for k in sorted(n.attrs))
            h.update(f"{n.op}({ins}){{{attrs}}}->{','.join(f'{ref(o)}:{o.type}' for o in n.outputs)}\n".encode())
        for name, v in zip(self.output_names, self.outputs, strict=True):
            h.update(f"output {name} {ref(v)}\n".encode())
        return h.hexdigest()


def attr_text(value: AttrValue) -> str:
    """Canonical text of an attribute value, for hashes and the text form."""
    if isinstance(value, Graph):
        return f"graph:{value.hash()}"
    if isinstance(value, np.ndarray):
        return f"array:{value.dtype}{list(value.shape)}:{hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, tuple):
        return "(" + ", ".join(attr_text(v) for v in value) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, float):
        return repr(value)
    return str(value)
