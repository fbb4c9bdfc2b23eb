"""Cases of recurrent layers: cells, directions, hidden sizes that fill no vector, lengths, states, activations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tests.ops.case import Case, Rng, floats, weights

_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
_USUAL = {"lstm": "Sigmoid Tanh Tanh", "gru": "Sigmoid Tanh", "rnn": "Tanh"}
#: name: (T, B, H)
_SHAPES = {"one": (1, 1, 8), "odd": (5, 3, 7), "wide": (3, 2, 37), "rows": (4, 11, 16), "whole": (3, 1, 64)}
_OPTIONS = {"plain": "", "states": "hc", "lengths": "lh", "all": "lhcp"}


def _case(
    name: str, cell: str, shape: Sequence[int], direction: str = "forward", given: str = "", known: bool = True,
    **attrs: Any,
) -> Case:  # fmt: skip
    """given: optional operands: b candidate's bias, l lengths, h and c states, p peepholes. known: weights are
    constants."""
    steps, batch, hidden = shape
    d, g = (2 if direction == "bidirectional" else 1), _GATES[cell]
    given = given if cell == "lstm" else given.replace("c", "").replace("p", "")

    def make(rng: Rng) -> list[np.ndarray | None]:
        rows = (batch, steps) if attrs.get("batch_first") else (steps, batch)
        lengths = rng.integers((steps + 1) // 2, steps + 1, batch).astype(np.int32)
        out: list[np.ndarray | None] = [
            floats(rng, (*rows, d * g * hidden)),
            weights(rng, (d, g * hidden, hidden), hidden),
            floats(rng, (d, hidden)) if "b" in given else None,
            lengths if "l" in given else None,
            floats(rng, (d, batch, hidden), low=-1.0, high=1.0) if "h" in given else None,
            floats(rng, (d, batch, hidden), low=-1.0, high=1.0) if "c" in given else None,
            floats(rng, (d, 3 * hidden), low=-1.0, high=1.0) if "p" in given else None,
        ]
        while out[-1] is None:
            out.pop()
        return out

    full = {"cell": cell, "direction": direction, "activations": " ".join([_USUAL[cell]] * d), **attrs}
    count = len(full["activations"].split())
    full = {"alpha": (0.0,) * count, "beta": (0.0,) * count, **full}
    constants = tuple(i for i, letter in ((1, ""), (2, "b"), (6, "p")) if letter in given) if known else ()
    return Case(f"Recurrence_{name}", "Recurrence", full, make, constants)


def cases() -> Iterator[Case]:
    directions = ("forward", "reverse", "bidirectional")
    for i, cell in enumerate(_GATES):
        for j, (label, shape) in enumerate(_SHAPES.items()):
            for k, (option, given) in enumerate(_OPTIONS.items()):
                n = i + j + k
                first, after = n % 2, cell == "gru" and n % 4 < 2
                yield _case(
                    f"{cell}_{label}_{option}",
                    cell,
                    shape,
                    directions[n % 3],
                    given + ("b" if after else ""),
                    known=k != 2,
                    batch_first=first,
                    linear_before_reset=int(after),
                )
    for cell in _GATES:
        yield _case(f"{cell}_clip", cell, _SHAPES["odd"], clip=0.5)
    yield _case("lstm_coupled", "lstm", _SHAPES["odd"], "reverse", "hcp", input_forget=1)
    yield _case("gru_after_without_bias", "gru", _SHAPES["odd"], linear_before_reset=1)
    for i, names in enumerate(("Affine HardSigmoid Relu", "HardSigmoid LeakyRelu Softsign", "Sigmoid ScaledTanh Elu",
                               "Sigmoid Softplus ThresholdedRelu")):  # fmt: skip
        numbers: dict[str, Any] = {"alpha": (0.5, 0.25, 0.75), "beta": (0.125, 0.25, 0.0)}
        yield _case(f"lstm_activations_{i}", "lstm", _SHAPES["odd"], activations=names, **numbers)
    two = "Relu LeakyRelu"
    yield _case(
        "rnn_two_activations",
        "rnn",
        _SHAPES["odd"],
        "bidirectional",
        activations=two,
        alpha=(0.0, 0.1),
        beta=(0.0,) * 2,
    )
