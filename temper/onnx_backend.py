"""Temper as a backend of the ONNX project, so that its own test suite (`onnx.backend.test`) and tools drive us.

    import temper.onnx_backend as backend
    rep = backend.prepare(model)
    y, = rep.run([x])

A model is built when the first arrays arrive: open dimensions take the sizes of the arrays, and an input that only
describes shapes (Reshape's shape, Slice's bounds, the axes of a reduction) is fixed at its value. Engines are kept by
those sizes and values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep, namedtupledict

from temper.builder import build_plan
from temper.config import BuildConfig
from temper.dtypes import NARROW_INTS, storage
from temper.errors import InputError, TemperError
from temper.frontends.onnx import Members, import_onnx, import_structured
from temper.frontends.onnx.problems import UnsupportedNodesError
from temper.frontends.onnx.tensors import DTYPES
from temper.plan.format import HostStep, Native, Plan, Segment
from temper.reference.formats import ML_DTYPES, UNNAMED
from temper.runtime.engine import Engine

_CONFIG = BuildConfig(threads=1, effort=0)

_OTHER_OP = re.compile(r"\b(not [A-Z]\w+|does not compute \w+|other op)$")

#: engines kept by one prepared model
_KEPT = 16


@dataclass(frozen=True)
class Prepared:
    """An engine for certain sizes and values. fixed: the inputs whose values are part of it.

    counts: of every output of the model, as of `import_structured`.
    """

    engine: Engine
    fixed: Mapping[str, np.ndarray]
    counts: tuple[int | None, ...]

    @property
    def host_steps(self) -> tuple[str, ...]:
        """op: reason, for every step that runs its numpy reference."""
        return host_steps(self.engine.plan)

    @property
    def kernels(self) -> int:
        """Number of compiled kernels the engine launches, those of branches and loop bodies included."""
        return sum(len(s.launches) for s in _segments(self.engine.plan, 0) if isinstance(s, Native))


def _segments(plan: Plan, program: int | None = None) -> Iterator[Segment]:
    """Segments of one program or of all, and of the branches and loop bodies."""
    for segments in plan.programs if program is None else (plan.programs[program],):
        yield from segments
    for sub in plan.subs:
        yield from sub.segments


def host_steps(plan: Plan) -> tuple[str, ...]:
    """op: reason, for every step of a plan that runs its numpy reference.

    An If or a Loop runs programs; a Sizes only reads numbers that kernels or the caller wrote.
    """
    steps = [s for s in _segments(plan) if isinstance(s, HostStep) and not s.subs and s.op != "Sizes"]
    return tuple(f"{s.op}: {_short(s.reason)}" for s in steps)


def _short(reason: str) -> str:
    """The reasons of tactics for the op itself: most decline because they compute another op."""
    own = [r for r in reason.split("; ") if not _OTHER_OP.search(r)]
    return "; ".join(own) or "no tactic computes it"


class TemperRep(BackendRep):
    """A model and the engines built for it so far."""

    def __init__(self, model: onnx.ModelProto, config: BuildConfig, folder: Path | None = None) -> None:
        self._model, self._config, self._folder = model, config, folder
        constants = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
        self._inputs = [i for i in model.graph.input if i.name not in constants]
        self._outputs = list(model.graph.output)
        self._needs: set[str] = set()
        #: sizes depend on data that are not inputs' values alone
        self._dynamic = False
        self._prepared: dict[Any, Prepared] = {}
        #: the engine of the last run
        self.last: Prepared | None = None

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Outputs in order, from arrays in input order or by name. InputError, or an error of the build."""
        feeds, members = self._feeds(self._by_name(inputs))
        self.last = prepared = self._engine(feeds, members)
        results = iter(prepared.engine.run({n: a for n, a in feeds.items() if n not in prepared.fixed}))
        shown: list[Any] = []
        for count, info in zip(prepared.counts, self._outputs, strict=True):
            code = _element(info.type)
            if count is not None and count < 0:
                shown.append(None)
                continue
            if count is None:
                whole = next(results)
                shown.append([_shown(a, code) for a in whole] if isinstance(whole, tuple) else _shown(whole, code))
                continue
            shown.append([_shown(next(results), code) for _ in range(count)])
        names = [o.name for o in self._outputs]
        outputs: tuple[Any, ...] = namedtupledict("Outputs", names)(*shown)
        return outputs

    def _feeds(self, given: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], Members]:
        """Arrays by the names of the graph's inputs, and the shapes of sequences' members."""
        feeds: dict[str, np.ndarray] = {}
        members: dict[str, Sequence[tuple[int, ...]] | None] = {}
        for info in self._inputs:
            value = given.get(info.name)
            if info.name not in given:
                continue
            if value is None:
                members[info.name] = None
            elif isinstance(value, (list, tuple)):
                parts = [_plain(v, info) for v in value]
                members[info.name] = [p.shape for p in parts]
                feeds.update((f"{info.name}.{i}", p) for i, p in enumerate(parts))
            else:
                feeds[info.name] = _plain(value, info)
        return feeds, members

    def _by_name(self, inputs: Any) -> dict[str, Any]:
        if isinstance(inputs, Mapping):
            return dict(inputs)
        given = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        if len(given) > len(self._inputs):
            raise InputError(f"{len(given)} inputs given; the model has {[i.name for i in self._inputs]}")
        return {i.name: a for i, a in zip(self._inputs, given, strict=False)}

    def _engine(self, feeds: Mapping[str, np.ndarray], members: Members) -> Prepared:
        while True:
            fixed = {n: feeds[n] for n in sorted(self._needs)}
            key = (
                tuple((n, a.shape) for n, a in feeds.items()),
                tuple((n, a.tolist().__repr__()) for n, a in fixed.items()),
                repr(members),
            )
            if key in self._prepared:
                return self._prepared[key]
            try:
                names = {i.name for i in self._inputs}
                graph, counts = import_structured(
                    self._model,
                    shapes={n: a.shape for n, a in feeds.items() if n in names},
                    folder=self._folder,
                    check_value_info=False,
                    values=fixed,
                    members=members,
                    dynamic=self._dynamic,
                )
            except UnsupportedNodesError as e:
                more = {n for p in e.problems for n in p.needs} - self._needs
                if more and more <= set(feeds):
                    self._needs |= more
                elif not self._dynamic:
                    self._dynamic = True
                else:
                    raise
                continue
            prepared = Prepared(Engine(build_plan(graph, self._config).plan), fixed, counts)
            if len(self._prepared) >= _KEPT:
                del self._prepared[next(iter(self._prepared))]
            self._prepared[key] = prepared
            return prepared


def _bits(value: Any) -> np.ndarray:
    """An array with a numpy dtype: formats numpy lacks (ml_dtypes' types) as Temper's arrays hold them."""
    array = np.asarray(value)
    dtype = next((ours for ours, theirs in ML_DTYPES.items() if theirs == array.dtype.name), "")
    if not dtype:
        return array
    return array.astype(storage(dtype)) if dtype in NARROW_INTS else array.view(storage(dtype))


def _plain(value: Any, info: Any) -> np.ndarray:
    if not isinstance(value, (np.ndarray, np.generic, int, float, bool, str)):
        raise InputError(f"input '{info.name}' is a {type(value).__name__}, expected an array")
    array = _bits(value)
    if array.dtype.kind == "U":
        array = array.astype(object)
    return array


def _element(kind: Any) -> int:
    """Element type of a tensor, of a sequence's members, or of an optional's value."""
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        return int(kind.tensor_type.elem_type)
    return _element(getattr(kind, which).elem_type) if which in ("sequence_type", "optional_type") else 0


def _shown(array: np.ndarray, code: int) -> np.ndarray:
    """The array as the onnx package has it: types numpy lacks as those of ml_dtypes, which the package depends on."""
    dtype = DTYPES.get(code, "")
    if dtype not in UNNAMED or array.dtype != storage(dtype):
        return array
    theirs = onnx.helper.tensor_dtype_to_np_dtype(code)
    return array.astype(theirs) if dtype in NARROW_INTS else array.view(theirs)


class TemperBackend(Backend):
    """`onnx.backend.base.Backend` over Temper's CPU engines."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """True if every node can be imported. Models that need inputs' values or shapes count as compatible."""
        constants = {t.name for t in model.graph.initializer}
        inputs = [i.type for i in model.graph.input if i.name not in constants]
        if any(not t.HasField("tensor_type") or not t.tensor_type.HasField("shape") for t in inputs):
            return True
        try:
            import_onnx(model, check_value_info=False)
        except UnsupportedNodesError as e:
            return all(p.needs for p in e.problems)
        except TemperError:
            return False
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> TemperRep:
        """A runnable model. kwargs: `config`, a BuildConfig; by default one thread, candidates chosen without timing.

        onnx.checker's ValidationError if the model is not valid ONNX, InputError for a device that is not a CPU.
        """
        if not cls.supports_device(device):
            raise InputError(f"there is no device {device!r}; this backend runs on CPU")
        onnx.checker.check_model(model)
        return TemperRep(model, kwargs.get("config") or _CONFIG)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Runs one operator. outputs_info: not needed. opset_version: the newest if absent.

        Operands of the same name are given once, in order of first appearance.
        """
        opset = int(kwargs.pop("opset_version", onnx.defs.onnx_opset_version()))
        names = list(dict.fromkeys(n for n in node.input if n))
        arrays = [np.asarray(a) for a in (inputs if isinstance(inputs, (list, tuple)) else [inputs])]
        if len(arrays) != len(names):
            raise InputError(f"{len(arrays)} inputs given for the operands {names} of {node.op_type}")
        helper = onnx.helper
        info = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in zip(names, arrays, strict=True)
        ]
        results = [onnx.ValueInfoProto(name=n) for n in node.output if n]
        graph = helper.make_graph([node], node.op_type, info, results)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(node.domain, opset)])
        if not cls.supports_device(device):
            raise InputError(f"there is no device {device!r}; this backend runs on CPU")
        return TemperRep(model, kwargs.get("config") or _CONFIG).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """True for "CPU" and "CPU:0"."""
        return device in ("CPU", "CPU:0")


is_compatible = TemperBackend.is_compatible
prepare = TemperBackend.prepare
run_model = TemperBackend.run_model
run_node = TemperBackend.run_node
supports_device = TemperBackend.supports_device
