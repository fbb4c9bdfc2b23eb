"""The graph's text form: one node a line, printed by `to_text` and read back by `parse` with an equal `Graph.hash()`.

    graph "resnet50" {
    dim N = "batch size"
    input %x: float32[N, 3, 224, 224]
    %w: float32[64, 3, 7, 7] = const sha256:0123456789abcdef
    %k: float32[] = const [0.5]
    %y: float32[N, 64, 112, 112] = Conv(%x, %w, _) {group=1, strides=(2, 2)}  # conv1 | source node | rule:name
    output %y "logits"
    }

The comment holds the node's name and its origin. Subgraphs in attributes follow as further `graph` sections and are
referred to by number.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterator, Mapping

import numpy as np

from temper.dtypes import storage
from temper.errors import ModelError
from temper.ir.dims import Dim, DimLike, parse_dim
from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import AttrValue
from temper.ir.types import DTYPES, TensorType

#: constants of up to this many elements are printed in line
INLINE = 16

_BARE = re.compile(r"[A-Za-z0-9_./\-]+")
_TOKEN = re.compile(r'%(?:"(?:[^"\\]|\\.)*"|[A-Za-z0-9_./\-]+)|_(?![A-Za-z0-9_])')
_CONST = re.compile(r"const (?:sha256:([0-9a-f]{16})|(\[.*\]))\Z", re.DOTALL)


def digest(array: np.ndarray) -> str:
    """The 16 hexadecimal digits that stand for a constant's contents in the text form."""
    data = array.tobytes() if array.dtype.kind != "O" else json.dumps(array.tolist()).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def constants_of(graph: Graph) -> dict[str, np.ndarray]:
    """Digest -> array for every constant and array attribute, subgraphs included: what `parse` needs too."""
    found = {digest(v.const): v.const for v in graph.constants if v.const is not None}
    for node in graph.nodes:
        for value in node.attrs.values():
            if isinstance(value, Graph):
                found |= constants_of(value)
            elif isinstance(value, np.ndarray):
                found[digest(value)] = value
    return found


# ---- printing ----


def _name(name: str) -> str:
    return "%" + (name if _BARE.fullmatch(name) else json.dumps(name))


def _elements(array: np.ndarray) -> str | None:
    """The elements in row-major order, or None if they cannot be written so that they read back bit for bit."""
    flat = array.reshape(-1)
    if array.dtype.kind == "O":
        return json.dumps(flat.tolist())
    text = "[" + ", ".join(str(v) for v in flat) + "]"
    return text if _read_elements(text, array.dtype).tobytes() == flat.tobytes() else None


def _read_elements(text: str, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "O":
        values = json.loads(text)
        out = np.empty(len(values), object)
        out[:] = values
        return out
    words = [w.strip() for w in text[1:-1].split(",") if w.strip()]
    if dtype.kind == "b":
        return np.array([{"True": True, "False": False}[w] for w in words], dtype)
    if dtype.kind in "iu":
        return np.array([int(w) for w in words], dtype)
    if dtype.kind == "c":
        return np.array([complex(w) for w in words], dtype)
    return np.array([dtype.type(w) for w in words], dtype)


def _const(array: np.ndarray) -> str:
    inline = _elements(array) if array.size <= INLINE else None
    return f"const {inline}" if inline is not None else f"const sha256:{digest(array)}"


def _attr(value: AttrValue, subgraphs: list[Graph]) -> str:
    if isinstance(value, Graph):
        subgraphs.append(value)
        return f"graph({len(subgraphs)})"
    if isinstance(value, np.ndarray):
        dtype = "string" if value.dtype.kind == "O" else str(value.dtype)
        return f"array({dtype!r}, {tuple(value.shape)}, {digest(value)!r})"
    if isinstance(value, tuple):
        return "(" + ", ".join(_attr(v, subgraphs) for v in value) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, float) and not np.isfinite(value):
        return f"float({str(value)!r})"
    return str(value) if isinstance(value, Dim) else repr(value)


def _word(text: str) -> str:
    return text if text and not re.search(r'[|"\s]|^\s|\s$', text) else json.dumps(text)


def _node(node: Node, subgraphs: list[Graph]) -> str:
    left = ", ".join(f"{_name(o.name)}: {o.type}" for o in node.outputs)
    inputs = ", ".join("_" if v is None else _name(v.name) for v in node.inputs)
    attrs = ", ".join(f"{k}={_attr(node.attrs[k], subgraphs)}" for k in sorted(node.attrs))
    comment = " | ".join(_word(w) for w in (node.name, *node.origin))
    return f"{left} = {node.op}({inputs})" + (f" {{{attrs}}}" if attrs else "") + f"  # {comment}"


def to_text(graph: Graph) -> str:
    """The graph as text. Constants of over `INLINE` elements appear by digest; `constants_of` gives their arrays."""
    sections: list[Graph] = [graph]  # a subgraph's number is its position in here, from 1; _attr appends
    lines: list[str] = []
    at = 0
    while at < len(sections):
        g = sections[at]
        lines.append(f"graph {json.dumps(g.name)} {{")
        lines += [f"dim {k} = {json.dumps(v)}" for k, v in sorted(g.dim_names.items())]
        lines += [f"input {_name(v.name)}: {v.type}" for v in g.inputs]
        lines += [f"{_name(v.name)}: {v.type} = {_const(v.const)}" for v in g.constants if v.const is not None]
        lines += [_node(n, sections) for n in g.nodes]
        lines += [
            f"output {_name(v.name)} {json.dumps(name)}" for v, name in zip(g.outputs, g.output_names, strict=True)
        ]
        lines.append("}")
        at += 1
    return "\n".join(lines) + "\n"


# ---- reading ----


class _Line:
    """A cursor over one line."""

    def __init__(self, text: str, number: int) -> None:
        self.text, self.number, self.at = text, number, 0

    def fail(self, why: str) -> ModelError:
        return ModelError(f"graph text, line {self.number}: {why}: {self.text.strip()!r}")

    def skip(self, literal: str) -> bool:
        if self.text.startswith(literal, self.at):
            self.at += len(literal)
            return True
        return False

    def expect(self, literal: str) -> None:
        if not self.skip(literal):
            raise self.fail(f"expected {literal!r} at column {self.at + 1}")

    def value(self) -> str | None:
        """A value's name, or None for the absent operand `_`."""
        m = _TOKEN.match(self.text, self.at)
        if m is None:
            raise self.fail(f"expected a value at column {self.at + 1}")
        self.at = m.end()
        token = m.group()
        return None if token == "_" else json.loads(token[1:]) if token[1] == '"' else token[1:]

    def through(self, open: str, close: str) -> str:
        """The text between the bracket at the cursor and its partner; brackets in quotes do not count."""
        self.expect(open)
        start, depth, quote = self.at, 1, ""
        while self.at < len(self.text):
            c = self.text[self.at]
            if quote:
                if c == "\\":
                    self.at += 1
                elif c == quote:
                    quote = ""
            elif c in "'\"":
                quote = c
            elif c == open:
                depth += 1
            elif c == close:
                depth -= 1
                if not depth:
                    self.at += 1
                    return self.text[start : self.at - 1]
            self.at += 1
        raise self.fail(f"{open!r} is not closed")

    def type(self) -> TensorType:
        self.expect(": ")
        m = re.compile(r"\w+").match(self.text, self.at)
        if m is None or m.group() not in DTYPES:
            raise self.fail(f"expected a tensor type at column {self.at + 1}")
        self.at = m.end()
        inside = self.through("[", "]")
        try:
            call = ast.parse(f"({inside},)" if inside.strip() else "()", mode="eval").body
            assert isinstance(call, ast.Tuple)
            return TensorType(m.group(), tuple(_dim(e) for e in call.elts))
        except (SyntaxError, ValueError) as e:
            raise self.fail(f"bad shape [{inside}]") from e


def _dim(tree: ast.expr) -> DimLike:
    return parse_dim(ast.unparse(tree))


class _Reader:
    def __init__(self, text: str, constants: Mapping[str, np.ndarray]) -> None:
        self.constants = constants
        sections: list[list[_Line]] = []
        for number, raw in enumerate(text.split("\n"), 1):
            if not raw.strip():
                continue
            if raw.startswith("graph "):
                sections.append([])
            if not sections:
                raise ModelError(f"graph text, line {number}: expected 'graph', not {raw.strip()!r}")
            sections[-1].append(_Line(raw.rstrip(), number))
        if not sections:
            raise ModelError("graph text: there is no graph")
        self.sections = sections
        self.open: set[int] = set()

    def graph(self, number: int) -> Graph:
        if not 1 <= number <= len(self.sections) or number in self.open:
            raise ModelError(f"graph text: there is no subgraph {number}, or it contains itself")
        self.open.add(number)
        head, *body = self.sections[number - 1]
        m = re.fullmatch(r'graph ("(?:[^"\\]|\\.)*") \{', head.text)
        if m is None or not body or body[-1].text != "}":
            raise head.fail("a graph starts with 'graph \"name\" {' and ends with '}'")
        graph = Graph(json.loads(m.group(1)))
        at: dict[str, Value] = {}
        outputs: list[tuple[Value, str]] = []
        for line in body[:-1]:
            try:
                if line.skip("input "):
                    name = line.value() or ""
                    at[name] = graph.add_input(name, line.type())
                elif line.skip("dim "):
                    k, _, v = line.text[4:].partition(" = ")
                    graph.dim_names[k] = json.loads(v)
                elif line.skip("output "):
                    name = line.value() or ""
                    line.expect(" ")
                    outputs.append((at[name], json.loads(line.text[line.at :])))
                else:
                    self.statement(line, graph, at)
            except (KeyError, ValueError, SyntaxError) as e:
                raise line.fail(f"unknown value {e}" if isinstance(e, KeyError) else str(e)) from e
        graph.set_outputs([v for v, _ in outputs], [n for _, n in outputs])
        self.open.discard(number)
        return graph

    def statement(self, line: _Line, graph: Graph, at: dict[str, Value]) -> None:
        names, types = [], []
        while True:
            name = line.value()
            if name is None or name in at or name in names:
                raise line.fail(f"the value {name!r} is defined twice" if name else "expected a value's name")
            names.append(name)
            types.append(line.type())
            if not line.skip(", "):
                break
        line.expect(" = ")
        rest = line.text[line.at :]
        if rest.startswith("const ") and (m := _CONST.match(rest)):
            at[names[0]] = graph.add_constant(
                self.array(line, types[0].dtype, types[0].shape, m.group(1), m.group(2)), names[0], types[0].dtype
            )
            return
        m = re.compile(r"\w+").match(line.text, line.at)
        if m is None:
            raise line.fail("expected an op")
        op, line.at = m.group(), m.end()
        line.expect("(")
        inputs: list[Value | None] = []
        while not line.skip(")"):
            if inputs:
                line.expect(", ")
            token = line.value()
            inputs.append(None if token is None else at[token])
        attrs: dict[str, AttrValue] = {}
        if line.skip(" ") and line.text.startswith("{", line.at):
            call = ast.parse(f"dict({line.through('{', '}')})", mode="eval").body
            assert isinstance(call, ast.Call)
            attrs = {k.arg: self.attr(line, k.value) for k in call.keywords if k.arg is not None}
        words = list(_words(line.text[line.at :].partition("# ")[2]))
        node = graph.add_node(
            op, inputs, types, attrs, name=words[0] if words else "", origin=tuple(words[1:]), output_names=names
        )
        for name, out in zip(names, node.outputs, strict=True):
            at[name] = out

    def array(
        self, line: _Line, dtype: str, shape: tuple[DimLike, ...], sha: str | None, inline: str | None
    ) -> np.ndarray:
        kind = storage(dtype)
        if inline is not None:
            found = _read_elements(inline, kind)
        elif sha is None or sha not in self.constants:
            raise line.fail(f"the constant sha256:{sha} is not among the {len(self.constants)} constants given")
        else:
            found = self.constants[sha]
            if found.dtype != kind or digest(found) != sha:
                raise line.fail(f"the array given for sha256:{sha} is another one")
        return found.reshape(tuple(int(d) for d in shape if not isinstance(d, Dim)))

    def attr(self, line: _Line, tree: ast.expr) -> AttrValue:
        if isinstance(tree, ast.Tuple):
            return tuple(self.attr(line, e) for e in tree.elts)
        if (
            isinstance(tree, ast.Call)
            and isinstance(tree.func, ast.Name)
            and tree.func.id in ("float", "graph", "array")
        ):
            args = [ast.literal_eval(a) for a in tree.args]
            if tree.func.id == "float":
                return float(args[0])
            return self.graph(args[0]) if tree.func.id == "graph" else self.array(line, args[0], args[1], args[2], None)
        try:
            literal = ast.literal_eval(tree)
        except ValueError:
            return _dim(tree)
        if isinstance(literal, (int, float, str)):
            return literal
        raise ValueError(f"not an attribute value: {ast.unparse(tree)}")


def _words(comment: str) -> Iterator[str]:
    for m in re.finditer(r'("(?:[^"\\]|\\.)*")|[^|\s]+', comment):
        yield json.loads(m.group()) if m.group(1) else m.group()


def parse(text: str, constants: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph `to_text` printed. `constants`: digest -> array, as `constants_of` gives. ModelError names the line."""
    return _Reader(text, constants or {}).graph(1)
