"""The steps of a bound program: native segments and host steps, and what one run of the program holds.

Sizes that depend on data are found by host steps while the program runs. A native segment that needs such a size is
resolved when the run reaches it and kept for the next run with the same sizes; its arrays of such sizes are slots,
whose addresses it gets with the bindings, so that one resolved segment serves every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from temper.dtypes import storage
from temper.errors import InputError, PlanError
from temper.plan.format import DimText, HostStep, Native, TypedRef, unpack_attrs
from temper.runtime.cpu import NativeContext
from temper.runtime.memory import data_address, view

if TYPE_CHECKING:
    from temper.runtime.binding import Bound, Sized

#: sizes a native segment stays resolved for
_KEPT = 32


class Run:
    """One run: its arrays, those made on the way by slot, and the sizes known so far."""

    def __init__(self, arrays: Sequence[np.ndarray], outputs: list[Any], env: Mapping[str, int]) -> None:
        self.arrays, self.outputs = arrays, outputs
        self.slots: dict[int, Any] = {}
        self.env = dict(env)


def sizes_of(shape: Sequence[DimText], bound: Sized, env: Mapping[str, int], name: str) -> tuple[int, ...]:
    """A shape at the sizes found. InputError if one is negative."""
    found = tuple(bound.value(d, env) for d in shape)
    if min(found, default=0) < 0:
        raise InputError(f"the data make a size negative: '{name}' would have shape {list(found)}")
    return found


class NativeCall:
    """A native segment. `context` is set where everything is known before the run."""

    def __init__(self, segment: Native, bound: Bound) -> None:
        self.segment, self.bound = segment, bound
        refs = [r for launch in segment.launches for r in launch.args]
        #: slots it touches, and those among them that it may be the first to write
        self.slots = sorted({r.index for r in refs if r.kind == "host"})
        #: outputs whose sizes depend on data
        self.outputs = sorted({r.index for r in refs if r.kind == "output" and bound.outputs[r.index][0] is None})
        texts = [
            t
            for launch in segment.launches
            for t in (*launch.symbols, launch.work, *launch.scratch, *(r.offset for r in launch.args))
        ]
        self.symbols = bound.unknown(texts)
        self.context: NativeContext | None = None if self.symbols else bound.native(segment, None)
        self._kept: dict[tuple[int, ...], NativeContext] = {}

    @property
    def fixed(self) -> bool:
        """Nothing about it changes from run to run but the addresses of inputs and outputs."""
        return self.context is not None and not self.slots and not self.outputs

    def run(self, run: Run) -> None:
        (self.context if self.fixed else self.ready(run)).run(self.bound.bindings)  # type: ignore[union-attr]

    def ready(self, run: Run) -> NativeContext:
        """Its code for the sizes of this run; arrays it is the first to write exist after this."""
        bound = self.bound
        for i in self.slots:
            if i not in run.slots:
                slot = bound.slots[i]
                shape = sizes_of(slot.shape, bound, run.env, slot.name)
                run.slots[i] = np.empty(shape, storage(slot.dtype))
            bound.pointers[bound.first_slot + i] = data_address(run.slots[i])
        for i in self.outputs:
            run.outputs[i] = bound.late_output(run, i)
            bound.pointers[len(run.arrays) + i] = data_address(run.outputs[i])
        if self.context is not None:
            return self.context
        key = tuple(run.env[s] for s in self.symbols)
        if key not in self._kept:
            if len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = bound.native(self.segment, run.env)
        return self._kept[key]


class HostCall:
    """A host step with its constant and arena operands resolved; inputs and outputs come with each run."""

    def __init__(self, step: HostStep, bound: Bound) -> None:
        from temper.reference import REFERENCES, run  # only plans with host steps load the references

        if step.op not in REFERENCES:
            raise PlanError(
                f"the plan has a host step {step.op}, which this Temper has no reference for; "
                "build the plan anew with this version"
            )
        self._reference: Callable[..., list[Any]] = run
        self._prepare(step, bound)
        #: None where they depend on sizes found in data
        self._attrs = None if bound.unknown(_dims(step.attrs)) else unpack_attrs(step.attrs, bound.env)
        self._dtypes = [None if t is None else t.dtype for t in step.inputs], [t.dtype for t in step.outputs]

    def _prepare(self, step: HostStep, bound: Bound) -> None:
        self.step, self.bound = step, bound
        self._inputs = [(t, None if t is None else self._fixed(t)) for t in step.inputs]
        self._outputs = [(t, self._fixed(t)) for t in step.outputs]

    @property
    def name(self) -> str:
        return self.step.name or self.step.op

    def _fixed(self, t: TypedRef) -> np.ndarray | None:
        if t.ref.kind not in ("arena", "const") or self.bound.unknown((*t.shape, t.ref.offset)):
            return None
        return self.bound.view(t, self.bound.env)

    def _read(self, t: TypedRef, run: Run) -> Any:
        """An operand: any object from a slot, else an array of the stated shape."""
        if t.ref.kind in ("arena", "const"):
            return self.bound.view(t, run.env)
        source = {"host": run.slots, "input": run.arrays, "output": run.outputs}[t.ref.kind]
        base = source[t.ref.index]  # type: ignore[index]
        if t.dtype == "sequence":
            return base[()] if isinstance(base, np.ndarray) else base  # an input of the model, or made on the way
        dtype, shape = storage(t.dtype), tuple(self.bound.value(d, run.env) for d in t.shape)
        if base.dtype == object or (base.dtype == dtype and base.size == np.prod(shape, dtype=np.int64)):
            return base.reshape(shape)
        return view(base.reshape(-1).view(np.uint8), self.bound.value(t.ref.offset, run.env), dtype, shape)

    def run(self, run: Run) -> None:
        ins = [None if t is None else fixed if fixed is not None else self._read(t, run) for t, fixed in self._inputs]
        results = self._results(ins, run)
        for s, n in zip(self.step.binds, results[0].reshape(-1) if self.step.binds else (), strict=True):
            if s:
                run.env[s] = int(n)
        for (t, fixed), y in zip(self._outputs, results, strict=True):
            self._store(t, fixed, y, ins, run)

    def _results(self, ins: Sequence[Any], run: Run) -> list[Any]:
        attrs = self._attrs if self._attrs is not None else unpack_attrs(self.step.attrs, run.env)
        try:
            return self._reference(self.step.op, ins, attrs, *self._dtypes)
        except (ValueError, IndexError, ArithmeticError, MemoryError) as e:
            raise InputError(f"step '{self.name}' ({self.step.op}) cannot work with these data: {e}") from e

    def _store(self, t: TypedRef, fixed: np.ndarray | None, y: Any, ins: Sequence[Any], run: Run) -> None:
        if not isinstance(y, (np.ndarray, np.generic)):
            (run.outputs if t.ref.kind == "output" else run.slots)[t.ref.index] = y  # a sequence
            return
        y = np.asarray(y)
        self._check(t, y, run)
        late = t.ref.kind == "output" and self.bound.outputs[t.ref.index][0] is None
        if t.ref.kind == "host" or (late and run.outputs[t.ref.index] is None):
            # what a reference returns may be an operand, or a part of one
            own = y if y.flags.owndata and y.flags.c_contiguous and not any(y is a for a in ins) else y.copy()
            if late:  # the output may be a renaming of what the step makes
                own = own.reshape(sizes_of(self.bound.output_shape(t.ref.index), self.bound, run.env, self.name))
                run.outputs[t.ref.index] = own
                self.bound.pointers[len(run.arrays) + t.ref.index] = data_address(own)
            else:
                run.slots[t.ref.index] = own
            return
        if late:
            target = self.bound.late_output(run, t.ref.index)
            np.copyto(target, y.reshape(target.shape))
        else:
            np.copyto(fixed if fixed is not None else self._read(t, run), y)

    def _check(self, t: TypedRef, y: np.ndarray, run: Run) -> None:
        """Binds the sizes that only the result tells; PlanError if the others are not what the plan says."""
        if y.ndim == len(t.shape):
            for d, n in zip(t.shape, y.shape, strict=True):
                if isinstance(d, str) and d.isidentifier():
                    run.env.setdefault(d, n)
        shape = tuple(self.bound.value(d, run.env) for d in t.shape)
        if y.shape != shape or y.dtype != storage(t.dtype):
            if self.step.op in ("SequenceAt", "ConcatFromSequence"):  # what members are like is for the caller to say
                raise InputError(
                    f"step '{self.name}' reads {y.dtype}{_text(y.shape)} from a sequence, expected "
                    f"{storage(t.dtype)}{_text(shape)}"
                )
            raise PlanError(
                f"host step {self.name} made {y.dtype}{_text(y.shape)}, the plan expects "
                f"{storage(t.dtype)}{_text(shape)}; build the plan anew with this version"
            )


def _text(shape: Sequence[int]) -> str:
    return str(tuple(shape))


def _dims(attrs: Mapping[str, Any]) -> list[DimText]:
    """The texts of the dimensions in packed attributes."""
    found: list[DimText] = []

    def walk(v: Any) -> None:
        if isinstance(v, dict) and "dim" in v:
            found.append(v["dim"])
        elif isinstance(v, list):
            for x in v:
                walk(x)

    for v in attrs.values():
        walk(v)
    return found
