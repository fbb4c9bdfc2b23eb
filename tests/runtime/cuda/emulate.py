"""A CUDA driver without a GPU that computes: what a launch would make, the numpy references make of the same memory.

`recording` remembers of which workload every kernel of a build is; a launch's arguments tell where its tensors lie. The
kernels' own text is checked elsewhere: this is for what is around them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np

from temper.dtypes import storage
from temper.ir.dims import evaluate
from temper.ir.evaluate import bind_attr
from temper.reference import run
from temper.tactics.base import Slot, Workload, chained
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.epilogue_reference import epilogue_reference
from temper.tune.select import Choice, Task, Tuner
from temper.tune.verify import widened_inputs
from tests.runtime.cuda.fake import FakeDriver, Launch


@dataclass(frozen=True)
class Use:
    """A kernel's use for one layer. packed: what its tactic makes of the constants."""

    workload: Workload
    kernel: TritonKernel
    constants: Mapping[int, np.ndarray]
    packed: tuple[np.ndarray, ...]


#: The uses of a kernel, by the function of its last launch: layers of one shape differ by their constants.
Known = dict[str, list[Use]]


@contextmanager
def recording() -> Iterator[Known]:
    """Fills the result with the kernels of the builds made within."""
    known: Known = {}
    choose = Tuner.choose

    def recorded(self: Tuner, tasks: Any) -> dict[str, Choice]:
        chosen = choose(self, tasks)
        for t in tasks:
            if t.key in chosen:
                use = _of(t, chosen[t.key])
                known.setdefault(use.kernel.entries[-1], []).append(use)
        return chosen

    with patch.object(Tuner, "choose", recorded):
        yield known


def _of(task: Task, choice: Choice) -> Use:
    c = choice.candidate
    assert isinstance(c.kernel, TritonKernel)
    return Use(task.workload, c.kernel, task.constants, c.tactic.prepack(task.workload, c.params, task.constants))


@dataclass
class Emulator(FakeDriver):
    """known: kernels by function; launches of others (a kernel's earlier stages) do nothing."""

    known: Known = field(default_factory=dict)

    def cuLaunchKernel(self, f: Any, *rest: Any) -> tuple[Any, ...]:
        done = super().cuLaunchKernel(f, *rest)
        self._compute(self.launches[-1])
        return done

    def cuGraphLaunch(self, graph: list[Launch], stream: int) -> tuple[Any, ...]:
        done = super().cuGraphLaunch(graph, stream)
        for x in graph:
            self._compute(x)
        return done

    def _compute(self, x: Launch) -> None:
        if x.function not in self.known:
            return
        use = next((u for u in self.known[x.function] if _reads(u, x)), self.known[x.function][-1])
        w, k, constants = use.workload, use.kernel, use.constants
        n = len(k.args)
        env = dict(zip(k.symbols, x.values[n : n + len(k.symbols)], strict=True))
        at = dict(zip(k.args, x.values, strict=False))
        inputs = [
            None if s is None else constants[i] if i in constants else _tensor(at["input", i], s, env)
            for i, s in enumerate(w.inputs)
        ]
        shape = [evaluate(d, env) for d in w.outputs[0].type.shape]
        operands: list[np.ndarray | None] = []
        for i, o in enumerate(w.epilogue.operands):
            kept = tuple(d if m else 1 for d, m in zip(shape, o.mask, strict=True))
            place = at.get(("operand", i))
            operands.append(None if place is None else _memory(place, o.dtype, kept, o.row_stride))
        if w.op == "Pointwise":
            made = epilogue_reference(w.epilogue, operands)
        else:
            made, kept = _linked(w, inputs, env) if w.links else (_anchored(w, inputs, env), None)
            if len(made) == 1:
                made = epilogue_reference(w.epilogue, [made[0], *operands[1:]])
            if len(made) < len(w.outputs):
                made = [*made, kept]
        for i, (y, s) in enumerate(zip(made, w.outputs, strict=True)):
            _tensor(at["output", i], s, env)[...] = y


def _anchored(w: Workload, inputs: Sequence[np.ndarray | None], env: Mapping[str, int]) -> list[np.ndarray]:
    """What the anchor gives, before the program behind it."""
    read = [None if s is None else "float32" if i in w.widened else s.type.dtype for i, s in enumerate(w.inputs)]
    kinds = [w.epilogue.operands[0].dtype] if w.epilogue.instrs else [s.type.dtype for s in w.outputs]
    return run(w.op, widened_inputs(w, inputs), {name: bind_attr(v, env) for name, v in w.attrs}, read, kinds)


def _linked(
    w: Workload, inputs: Sequence[np.ndarray | None], env: Mapping[str, int]
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """What the last link's anchor gives, and what it reads."""
    data, made = inputs[0], list[np.ndarray]()
    for link, (own, operands) in zip(w.links, chained(w), strict=True):
        made = _anchored(link, [data, *(inputs[i] for i in own)], env)
        if link is not w.links[-1]:
            (data,) = epilogue_reference(link.epilogue, [made[0], *(inputs[i] for i in operands)])
    return made, data


def _reads(use: Use, x: Launch) -> bool:
    """Whether the constants that a launch points to are those of this use."""
    for (kind, i), place in zip(use.kernel.args, x.values, strict=False):
        array = use.packed[i] if kind == "packed" else use.constants.get(i) if kind == "input" else None
        if array is not None and array.nbytes and ctypes.string_at(place, array.nbytes) != array.tobytes():
            return False
    return True


def _tensor(address: int, s: Slot, env: Mapping[str, int]) -> np.ndarray:
    return _memory(address, s.type.dtype, tuple(evaluate(d, env) for d in s.type.shape), s.row_stride)


def _memory(address: int, dtype: str, shape: tuple[int, ...], row_stride: int | None) -> np.ndarray:
    """Device memory of the fake driver, as a tensor that may be a view into a wider one."""
    kind = storage(dtype)
    rows, row = int(np.prod(shape[:-1])), shape[-1] if shape else 1
    if not rows * row:
        return np.empty(shape, kind)
    step = row_stride or row
    count = (rows - 1) * step + row
    flat = np.ctypeslib.as_array((ctypes.c_uint8 * (count * kind.itemsize)).from_address(address)).view(kind)
    strides, size = [kind.itemsize], step * kind.itemsize
    for d in reversed(shape[:-1]):
        strides.append(size)
        size *= d
    return np.lib.stride_tricks.as_strided(flat, shape, tuple(reversed(strides[: len(shape)])))
