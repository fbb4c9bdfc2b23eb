"""Recurrent layers whose steps several shares take together, against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from temper.reference import REFERENCES
from temper.tactics.base import Slot, Workload
from temper.tactics.cpu.recurrent import Recurrent
from temper.tactics.epilogue import Attr, Epilogue
from tests.tactics.kernels import ISAS, Runner, f32

rng = np.random.default_rng(7)
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
USUAL = {"lstm": "Sigmoid Tanh Tanh", "gru": "Sigmoid Tanh", "rnn": "Tanh"}


def workload(
    cell: str, steps: int, batch: int, hidden: int, direction: str = "forward", isa: str = "avx512", threads: int = 2,
    after: int = 0,
) -> Workload:  # fmt: skip
    d, g = (2 if direction == "bidirectional" else 1), GATES[cell]
    names = " ".join([USUAL[cell]] * d)
    numbers = (0.0,) * len(names.split())
    attrs: tuple[tuple[str, Attr], ...] = (
        ("activations", names),
        ("alpha", numbers),
        ("batch_first", 0),
        ("beta", numbers),
        ("cell", cell),
        ("clip", 0.0),
        ("direction", direction),
        ("input_forget", 0),
        ("linear_before_reset", after),
    )
    state = f32(d, batch, hidden)
    inputs: tuple[Slot | None, ...] = (
        f32(steps, batch, d * g * hidden),
        f32(d, g * hidden, hidden),
        f32(d, hidden) if after else None,
        None,
        state,
    )
    outs = (f32(steps, batch, d * hidden), *[state] * (2 if cell == "lstm" else 1))
    constant = (False, True, bool(after), False, False)
    return Workload("Recurrence", attrs, inputs, constant, outs, Epilogue.identity("float32", 3), isa, threads)


def arrays(w: Workload) -> list[np.ndarray | None]:
    out: list[np.ndarray | None] = []
    for i, s in enumerate(w.inputs):
        shape = () if s is None else tuple(int(str(d)) for d in s.type.shape)
        scale = shape[-1] ** -0.5 if i == 1 else 1.0
        out.append(None if s is None else (scale * rng.standard_normal(shape)).astype(np.float32))
    return out


def together(w: Workload) -> list[tuple[tuple[str, int], ...]]:
    return [p for p in Recurrent().candidates(w) if dict(p)["together"]]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("cell", "batch", "hidden", "direction", "after", "threads"),
    [
        ("lstm", 1, 256, "forward", 0, 2),
        ("lstm", 1, 230, "reverse", 0, 3),
        ("gru", 1, 250, "forward", 0, 3),
        ("gru", 2, 201, "forward", 1, 4),
        ("lstm", 1, 160, "bidirectional", 0, 4),
        ("rnn", 1, 400, "forward", 0, 2),
        ("lstm", 3, 256, "forward", 0, 2),
    ],
)
def test_shares_take_steps_together(
    cell: str, batch: int, hidden: int, direction: str, after: int, threads: int, isa: str
) -> None:
    w = workload(cell, 70, batch, hidden, direction, isa, threads, after)
    inputs = arrays(w)
    want = REFERENCES["Recurrence"](inputs, dict(w.attrs))
    (chosen, *_) = together(w)
    run = Runner(Recurrent(), w, chosen)
    first = run.same_for_all_splits(inputs)
    for a, b in zip(first, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for _ in range(5):
        for a, b in zip(first, run(inputs, parts=threads, threads=threads), strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    ("w", "why"),
    [
        (workload("lstm", 70, 1, 256, threads=1), "one thread"),
        (workload("lstm", 70, 9, 256), "many rows"),
        (workload("lstm", 1, 1, 256), "too short"),
        (workload("lstm", 70, 1, 32), "a step is short"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_shares_work_alone_where_meeting_does_not_pay(w: Workload, why: str) -> None:
    assert together(w) == []
    assert Recurrent().candidates(w)
