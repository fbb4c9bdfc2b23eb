"""Checks ONNX nodes against the schemas of the `onnx` package: counts, attribute names and types, element types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from temper.errors import ModelError, ShapeError
from temper.frontends.onnx.held import Held, Items
from temper.frontends.onnx.tensors import DTYPES
from temper.ir.graph import Value

_SINGLE = ("f", "i", "s", "t", "g", "sparse_tensor", "tp")

_ONNX_NAME = {"float32": "float", "float64": "double"}


def find_schema(op: str, domain: str, opset: int) -> Any | None:
    """The op's schema as of `opset`; None if the domain or the op is unknown there."""
    import onnx

    try:
        return onnx.defs.get_schema(op, opset, domain)
    except onnx.defs.SchemaError:
        return None


#: the opset of the default domain from which on the table reads every version of an op
OLDEST_OPSET = 6
#: an attribute of early ops that says which operands may be overwritten, and nothing about results
_NO_MEANING = "consumed_inputs"


def early_difference(schema: Any) -> str | None:
    """Why an op of an opset before `OLDEST_OPSET` cannot be read as that opset's; None if it can.

    It can if it has the operands, results, attributes and defaults that it has there.
    """
    later = find_schema(schema.name, schema.domain, OLDEST_OPSET)
    if later is None or later.since_version == schema.since_version:
        return None
    for what in ("min_input", "max_input", "min_output", "max_output"):
        if getattr(schema, what) != getattr(later, what):
            return f"version {schema.since_version} takes other operands than version {later.since_version}"
    old, new = ({n: _form(a) for n, a in s.attributes.items() if n != _NO_MEANING} for s in (schema, later))
    odd = sorted(n for n in {*old, *new} if old.get(n) != new.get(n))
    if odd:
        return f"version {schema.since_version} has other attributes than version {later.since_version}: {odd}"
    return None


def _form(attribute: Any) -> tuple[object, ...]:
    return attribute.type, attribute.required, attribute.default_value.SerializeToString()


def _code(dtype: str) -> int:
    return next(k for k, t in DTYPES.items() if t == dtype)


def function_body(schema: Any, node: Any, inputs: Sequence[Held], given: Mapping[str, Any], where: str) -> Any | None:
    """The FunctionProto by which ONNX defines this node out of other ops; None where there is none."""
    import onnx

    if not schema.has_context_dependent_function:
        return schema.function_body if schema.has_function else None
    types = []
    for v in inputs:
        proto = onnx.TypeProto()
        if isinstance(v, Items):
            proto.sequence_type.elem_type.tensor_type.elem_type = _code(v.dtype)
        elif isinstance(v, Value):
            proto.tensor_type.elem_type = _code(v.type.dtype)
            for d in v.type.shape:
                proto.tensor_type.shape.dim.add(**({"dim_value": d} if isinstance(d, int) else {"dim_param": str(d)}))
        types.append(proto.SerializeToString())
    call = onnx.NodeProto()
    call.CopyFrom(node)
    del call.attribute[:]
    for name, value in given.items():  # references to the enclosing function's attributes are resolved by now
        call.attribute.add().CopyFrom(value)
        call.attribute[-1].name = name
    body = onnx.FunctionProto()
    try:
        body.ParseFromString(schema.get_context_dependent_function(call.SerializeToString(), types))
    except (ValueError, RuntimeError) as e:  # what the package's C++ raises on nodes it cannot expand
        raise ModelError(f"{where}: {e}") from e
    return body if len(body.node) else None


def read_attributes(attributes: Any, where: str, bound: Mapping[str, Any]) -> dict[str, Any]:
    """name -> AttributeProto. `bound`: the enclosing function call's attributes, which references refer to."""
    out: dict[str, Any] = {}
    for a in attributes:
        if not a.name or a.name in out:
            raise ModelError(f"{where}: attribute '{a.name}' has no name or appears twice")
        if a.ref_attr_name:
            if a.ref_attr_name in bound:
                out[a.name] = bound[a.ref_attr_name]
            continue
        out[a.name] = a
    return out


def attribute_value(a: Any, where: str) -> Any:
    """The Python value of an AttributeProto: int, float, str, tuple, TensorProto, SparseTensorProto or GraphProto."""
    kinds = {
        1: "f",
        2: "i",
        3: "s",
        4: "t",
        5: "g",
        6: "floats",
        7: "ints",
        8: "strings",
        9: "tensors",
        10: "graphs",
        11: "sparse_tensor",
        13: "tp",
    }
    field = kinds.get(a.type)
    if field is None:
        raise ModelError(f"{where}: attribute '{a.name}' has the unusable type {a.type}")
    scalar = field in _SINGLE
    others = [f for f in kinds.values() if f != field and (a.HasField(f) if f in _SINGLE else len(getattr(a, f)))]
    if others or (scalar and not a.HasField(field) and field in ("t", "g", "sparse_tensor")):
        raise ModelError(
            f"{where}: attribute '{a.name}' says it is in field '{field}', but {others or 'nothing'} is set"
        )
    value = getattr(a, field)
    try:
        if field == "s":
            return value.decode()
        if field == "strings":
            return tuple(v.decode() for v in value)
    except UnicodeDecodeError as e:
        raise ModelError(f"{where}: attribute '{a.name}' is not valid UTF-8") from e
    return value if scalar else tuple(value)


def attributes_by_schema(schema: Any, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values of the node's attributes with the schema's defaults filled in; ModelError names a wrong one."""
    known = schema.attributes
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ModelError(
            f"{where}: {schema.name}-{schema.since_version} has no attribute {unknown}; it has {sorted(known)}"
        )
    out: dict[str, Any] = {}
    for name, spec in known.items():
        if name in given:
            if given[name].type != spec.type.value:
                raise ModelError(
                    f"{where}: attribute '{name}' must be of type {spec.type.name}, not type {given[name].type}"
                )
            out[name] = attribute_value(given[name], where)
        elif spec.required:
            raise ModelError(f"{where}: the required attribute '{name}' is missing")
        elif spec.default_value.name:
            out[name] = attribute_value(spec.default_value, where)
    return out


def check_counts(schema: Any, inputs: Sequence[str], outputs: Sequence[str], where: str) -> None:
    """ModelError if the number of operands or results does not fit the schema, or a required operand is empty."""
    for what, names, least, most in (
        ("inputs", inputs, schema.min_input, schema.max_input),
        ("outputs", outputs, schema.min_output, schema.max_output),
    ):
        if not least <= len(names) <= most:
            limits = f"{least}" if least == most else f"{least} to {most}" if most < 1 << 30 else f"at least {least}"
            raise ModelError(f"{where}: {len(names)} {what}, but {schema.name}-{schema.since_version} takes {limits}")
    for i, name in enumerate(inputs):
        formal = schema.inputs[min(i, len(schema.inputs) - 1)]
        if not name and formal.option.name != "Optional":
            raise ModelError(f"{where}: the required input {i} ('{formal.name}') is empty")


def check_types(schema: Any, inputs: Sequence[Value | None], where: str) -> None:
    """ShapeError if an operand's element type is not allowed or operands disagree that must not."""
    bound: dict[str, tuple[str, str]] = {}
    for i, v in enumerate(inputs):
        if v is None:
            continue
        formal = schema.inputs[min(i, len(schema.inputs) - 1)]
        dtype = v.type.dtype
        if f"tensor({_ONNX_NAME.get(dtype, dtype)})" not in formal.types:
            allowed = ", ".join(
                sorted(t.removeprefix("tensor(").removesuffix(")") for t in formal.types if t.startswith("tensor("))
            )
            raise ShapeError(
                f"{where}: input {i} ('{formal.name}', value '{v.name}') is {dtype}; "
                f"{schema.name}-{schema.since_version} allows {allowed}"
            )
        if formal.is_homogeneous or formal.option.name != "Variadic":
            first = bound.setdefault(formal.type_str, (dtype, v.name))
            if first[0] != dtype:
                raise ShapeError(
                    f"{where}: input {i} ('{formal.name}', value '{v.name}') is {dtype}, but '{first[1]}' is "
                    f"{first[0]}; both must have one type"
                )
