"""Splits the graph into regions: one anchor with the elementwise program that follows it, or a pointwise chain alone.

Views (Reshape) belong to no region: they rename a buffer. A region can always be split back: `Region.splits` gives the
anchor alone and a pointwise region for the rest, which is used when no tactic accepts the epilogue.

Growth follows Hidet's vocabulary (anchor, prologue, epilogue); legality is one rule: absorbing a node must not make a
cycle between regions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from temper.dtypes import NARROW_FLOATS
from temper.ir.dims import DimLike
from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import Kind
from temper.ir.ops import TABLE
from temper.passes.manager import Log
from temper.passes.region import Region, widens

#: Ops that only rename a buffer. (An Identity left after cleanup is a copy that somebody needs.)
VIEW_OPS = frozenset({"Reshape", "Prefix"})

#: Most instructions in one program: beyond this, registers spill and compile time grows with no gain.
MAX_INSTRS = 24


def partition(graph: Graph, log: Log, prologues: bool = False) -> list[Region]:
    """Regions covering every node but views, in an order in which each region's inputs come first.

    prologues: kernels convert what they load, so that conversions of narrow floats to float32 belong to their readers.
    """
    owner: dict[int, int] = {}
    binders = graph.binders
    members: list[list[Node]] = []
    refused: list[tuple[Node, str]] = []
    before: dict[int, tuple[Node, ...]] = {}
    narrow = NARROW_FLOATS if prologues else frozenset()
    for priority in range(3):
        for n in graph.nodes:
            if n.op in VIEW_OPS or n.id in owner or priority != _priority(n, narrow):
                continue
            me = len(members)
            widening = _prologue(graph, n, narrow, owner) if computes(n) and priority < 2 else ()
            owner |= dict.fromkeys((c.id for c in (*widening, n)), me)
            if priority == 0:
                members.append([n])
                before[me] = widening
            else:
                members.append([*widening, n])
            if len(n.outputs) == 1 and (computes(n) or (prologues and n.op == "Transpose")):
                _grow(graph, members, owner, me, n, refused, binders, narrow)
    for node, reason in refused:
        if members[owner[node.id]][0] is node:  # no other anchor took it either
            log.did_not("fuse", node.name, reason)
    regions = []
    for number, nodes in enumerate(members):
        ids = {n.id for n in nodes}
        outputs = tuple(
            o
            for n in nodes
            for o in n.outputs
            if graph.is_output(o) or any(u.id not in ids for u, _ in o.uses) or (len(n.outputs) > 1) or n.binds
        )
        # the template stores the first result; keep the chain's last value there
        outputs = (
            tuple(sorted(outputs, key=lambda o: o.producer is not nodes[-1])) if len(nodes[0].outputs) == 1 else outputs
        )
        anchor = nodes[0] if TABLE[nodes[0].op].kind is not Kind.ELEMENTWISE else None
        regions.append(Region(anchor, tuple(nodes), outputs, before.get(number, ())))
    return order_regions(regions)


def _priority(node: Node, narrow: frozenset[str]) -> int:
    """When a node may begin a region: anchors first, then what computes, then conversions that none of them took."""
    return 0 if TABLE[node.op].kind is not Kind.ELEMENTWISE else 1 + widens(node, narrow)


def _prologue(graph: Graph, reader: Node, narrow: frozenset[str], owner: Mapping[int, int]) -> tuple[Node, ...]:
    """Conversions of narrow floats to float32 that nothing but `reader` reads."""
    found = {}
    for v in reader.inputs:
        n = None if v is None else v.producer
        if n is None or n.id in owner or not widens(n, narrow) or graph.is_output(n.output):
            continue
        if all(user is reader for user in n.output.users):
            found[n.id] = n
    return tuple(found.values())


#: Anchors whose kernels store copies only: fusing arithmetic into them would need a template for each.
_NO_EPILOGUE = frozenset(
    {
        "Concat",
        "Split",
        "Gather",
        "Lookup",
        "GatherElements",
        "GatherND",
        "ScatterElements",
        "ScatterND",
        "TopK",
        "NonMaxSuppression",
        "Slice",
        "Pad",
        "Transpose",
        "Expand",
        "Tile",
        "Shape",
        "Size",
    }
)


def computes(node: Node) -> bool:
    """It does more than copy its elements; a Resize does unless it takes the nearest."""
    return node.op not in _NO_EPILOGUE and not (node.op == "Resize" and node.attrs["mode"] == "nearest")


def _grow(
    graph: Graph,
    members: list[list[Node]],
    owner: dict[int, int],
    me: int,
    first: Node,
    refused: list[tuple[Node, str]],
    binders: Mapping[str, Node],
    narrow: frozenset[str],
) -> None:
    """Absorbs elementwise users of the region's values while that is legal."""
    nodes, shape = members[me], first.output.type.shape
    changed = True
    while changed and sum(not widens(n) for n in nodes) <= MAX_INSTRS:
        changed = False
        inside = {n.id for n in nodes}
        for user in dict.fromkeys(u for n in nodes for o in n.outputs for u, _ in o.uses):
            if user.id in owner or len(user.outputs) != 1 or TABLE[user.op].kind is not Kind.ELEMENTWISE:
                continue
            if user.output.type.shape != shape:
                refused.append((user, f"its shape {user.output.type} is not that of {first!r} ({first.output.type})"))
                continue
            if _read_by_a_program(user) or widens(user, narrow):
                continue
            others = [
                v for v in user.inputs if v is not None and v.producer is not None and v.producer.id not in inside
            ]
            if others and not computes(first):
                continue  # it belongs to what computes the others
            if any(_depends(v, inside, owner, members, binders) for v in others):
                cycle = "fusing would make a cycle"
                refused.append((user, f"another of its inputs depends on {nodes[0]!r}: {cycle}"))
                continue
            for node in (*(n for v in others for n in _widening(v, shape, owner, narrow)), user):
                nodes.append(node)
                owner[node.id] = me
                inside.add(node.id)
            changed = True
            break


_CODES = ("int8", "uint8")


def _read_by_a_program(node: Node) -> bool:
    """A conversion of codes to float whose result, after steps of its own, another value is combined with: it belongs
    to the program that does so, which then reads the codes instead of four times as many bytes of floats. Codes that
    nothing else reads need not leave the registers, unless it is another anchor's result that would come as floats."""
    first = node.inputs[0]
    if node.op != "Cast" or first is None or first.type.dtype not in _CODES:
        return False
    while True:
        users = node.output.users
        if len(node.output.uses) != 1 or TABLE[users[0].op].kind is not Kind.ELEMENTWISE:
            return False
        made, node = node.output, users[0]
        others = [v for v in node.inputs if v is not None and v.const is None and v is not made]
        if others:
            return len(first.uses) > 1 or any(_of_an_anchor(v) for v in others)


def _of_an_anchor(value: Value) -> bool:
    """`value` is an anchor's result after steps that read nothing else."""
    while (node := value.producer) is not None and len(value.uses) == 1:
        if TABLE[node.op].kind is not Kind.ELEMENTWISE:
            return node.op not in VIEW_OPS and node.op not in _NO_EPILOGUE
        data = [u for u in node.inputs if u is not None and u.const is None]
        if len(data) != 1 or data[0].type.dtype in _CODES:
            return False
        value = data[0]
    return False


def _widening(
    value: Value, shape: tuple[DimLike, ...], owner: Mapping[int, int], narrow: frozenset[str]
) -> list[Node]:
    """The steps that make `value` of codes or narrow floats, if nothing else reads them: in order, empty if it is not
    made so."""
    chain: list[Node] = []
    v = value
    while True:
        node = v.producer
        if node is not None and widens(node, narrow) and node.id not in owner and len(v.uses) == 1:
            return [node, *chain[::-1]]
        if node is None or node.id in owner or len(v.uses) != 1 or v.type.shape != shape:
            return []
        data = [u for u in node.inputs if u is not None and u.const is None]
        if TABLE[node.op].kind is not Kind.ELEMENTWISE or len(data) != 1:
            return []
        chain.append(node)
        if node.op == "Cast" and data[0].type.dtype in _CODES:
            return chain[::-1]
        v = data[0]


def _depends(
    value: Value, inside: set[int], owner: dict[int, int], members: list[list[Node]], binders: Mapping[str, Node]
) -> bool:
    """True if computing `value` needs a value of the region `inside`, counting whole regions as units."""
    seen: set[int] = set()
    stack = [value.producer]
    while stack:
        producer = stack.pop()
        if producer is None or producer.id in seen:
            continue
        # a conversion before an anchor is a member too, though not listed
        group: Iterable[Node] = (*members[owner[producer.id]], producer) if producer.id in owner else (producer,)
        for n in group:
            if n.id in inside:
                return True
            if n.id not in seen:
                seen.add(n.id)
                stack += [v.producer for v in n.inputs if v is not None]
                stack += [binders[s] for s in n.reads & binders.keys() if binders[s] is not n] if binders else []
    return False


def dependencies(regions: Sequence[Region]) -> list[set[int]]:
    """For every region the indices of those whose results it reads, also where views and joined or split rows lie
    between."""
    made = {o.id: i for i, r in enumerate(regions) for n in r.all_nodes for o in n.outputs}
    binders = {s: i for i, r in enumerate(regions) for n in r.nodes for s in n.binds}

    def bound(n: Node) -> set[int]:
        """Regions that bind the sizes which the node's attributes mention."""
        return {binders[s] for s in n.reads & binders.keys()} if binders else set()

    def sources(value: Value) -> set[int]:
        """Regions that write the bytes of `value`; ops outside every region (views, joined and split rows) are looked
        through."""
        found: set[int] = set()
        stack, seen = [value], {value.id}
        while stack:
            v = stack.pop()
            if v.id in made:
                found.add(made[v.id])
            elif v.producer is not None:
                found |= bound(v.producer)
                for u in v.producer.inputs:
                    if u is not None and u.id not in seen:
                        seen.add(u.id)
                        stack.append(u)
        return found

    return [
        set().union(*(sources(v) for v in r.inputs), *(bound(n) for n in r.nodes)) - {i} for i, r in enumerate(regions)
    ]


def order_regions(regions: list[Region]) -> list[Region]:
    """Topological order by region; ties by creation of their first node. ValueError if the partition is not acyclic."""
    needs = dependencies(regions)
    # the node that finishes last decides: a skip branch then runs before the block that adds it
    rank = sorted(range(len(regions)), key=lambda i: regions[i].nodes[0].id)
    out: list[Region] = []
    state: dict[int, int] = {}

    def visit(root: int) -> None:
        stack = [(root, iter(sorted(needs[root], key=rank.index)))]
        state[root] = 1
        while stack:
            i, it = stack[-1]
            for j in it:
                if state.get(j) == 1:
                    raise ValueError(f"regions '{regions[i].name}' and '{regions[j].name}' depend on each other")
                if j not in state:
                    state[j] = 1
                    stack.append((j, iter(sorted(needs[j], key=rank.index))))
                    break
            else:
                state[i] = 2
                out.append(regions[i])
                stack.pop()

    for i in rank:
        if i not in state:
            visit(i)
    return out
