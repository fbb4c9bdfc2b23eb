"""Reads an ONNX file into a ModelProto that is safe to walk: parsed, every string valid, opset imports in range."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from temper.errors import ModelError, UnsupportedError
from temper.ir.derived import Derived

#: protobuf cannot hold more
_MOST_BYTES = (1 << 31) - 1

ModelSource = Union[str, "os.PathLike[str]", bytes, Any]

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that was read, a source for several imports: what `load_model` gives, and its initializers, by name, with
    their types, as far as they were read. derived: what was computed of them. Nobody changes it."""

    proto: Any
    folder: Path | None
    label: str
    tensors: dict[str, tuple[np.ndarray, str]] = field(default_factory=dict)
    derived: Derived = field(default_factory=Derived)


def loaded(source: ModelSource) -> Loaded:
    """A model to import several times. Errors as for `load_model`."""
    return source if isinstance(source, Loaded) else Loaded(*load_model(source))


def load_model(source: ModelSource) -> tuple[Any, Path | None, str]:
    """(ModelProto, folder for external data or None, label for messages) from a path, bytes, a ModelProto, or what
    `loaded` gave.

    ModelError if the file cannot be read or is not an ONNX model.
    """
    import onnx

    if isinstance(source, Loaded):
        return source.proto, source.folder, source.label
    if isinstance(source, onnx.ModelProto):
        model, folder, label = source, None, "model"
    elif isinstance(source, (bytes, bytearray, memoryview)):
        model, folder, label = _parse(bytes(source), "model"), None, "model"
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        label = path.name
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise ModelError(
                    f"{path}: the file is over 2 GiB, more than an ONNX protobuf can be; store weights as external data"
                )
            data = path.read_bytes()
        except (OSError, ValueError) as e:
            raise ModelError(f"{path}: cannot be read: {getattr(e, 'strerror', None) or e}") from e
        model, folder = _parse(data, str(path)), path.resolve().parent
    else:
        raise ModelError(f"an ONNX model is given as a path, bytes or a ModelProto, not {type(source).__name__}")
    _check_strings(model, label)
    if not model.HasField("graph"):
        raise ModelError(f"{label}: the model has no graph; it is truncated, or not an ONNX file")
    return model, folder, label


def _parse(data: bytes, label: str) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    if not data:
        raise ModelError(f"{label}: the file is empty")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as e:
        raise ModelError(f"{label}: not an ONNX file, or a damaged one (protobuf cannot decode it)") from e
    return model


def _check_strings(message: Any, where: str) -> None:
    """Walks the message once, so that no later access to a name meets bytes that are not UTF-8."""
    stack = [(message, where)]
    while stack:
        current, path = stack.pop()
        try:
            for descriptor, value in current.ListFields():
                if descriptor.message_type is not None:
                    children = (value,) if hasattr(value, "ListFields") else value
                    stack.extend((c, f"{path}.{descriptor.name}") for c in children)
                elif descriptor.type == descriptor.TYPE_STRING:
                    # Implementations of protobuf differ: some return bytes here, some raise.
                    strings = value if isinstance(value, (str, bytes)) else "".join(value)
                    if isinstance(strings, bytes):
                        raise TypeError
        except (UnicodeDecodeError, TypeError) as e:
            raise ModelError(f"{path}: a name is not valid UTF-8; the file is damaged") from e


def opsets(imports: Any, label: str) -> dict[str, int]:
    """Domain -> opset version from opset_import entries, with the default domain under "". Errors say what is wrong."""
    import onnx

    out: dict[str, int] = {}
    for entry in imports:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if out.get(domain, entry.version) != entry.version:
            raise ModelError(
                f"{label}: opset_import states versions {out[domain]} and {entry.version} for the domain {domain!r}"
            )
        out[domain] = entry.version
    if not out:
        raise ModelError(f"{label}: opset_import is missing, so the meaning of the operators is undefined")
    newest = onnx.defs.onnx_opset_version()
    version = out.get("")
    if version is not None and version < 1:
        raise ModelError(f"{label}: opset version {version} does not exist")
    if version is not None and version > newest:
        raise UnsupportedError(
            f"{label}: opset {version} is newer than {newest}, the newest that onnx {onnx.__version__} knows; "
            "upgrade the onnx package or export with an older opset"
        )
    return out
