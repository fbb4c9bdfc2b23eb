# ruff: noqa: E731 (a case is a name and the function that makes its operands)
"""Cases of blocks that passes recover from primitive ops."""

from __future__ import annotations

from collections.abc import Iterator

from tests.ops.case import Case, floats, weights

#: (map with channels first, hidden, features)
_SHAPES = {
    "7x7": ((1, 96, 7, 7), 24, 96),
    "odd": ((2, 21, 5, 3), 7, 33),
    "1d": ((2, 19, 11), 5, 19),
    "1x1": ((3, 16, 1, 1), 4, 16),
    "narrow": ((1, 3, 9, 8), 1, 3),
}


def cases() -> Iterator[Case]:
    for name, (shape, r, f) in _SHAPES.items():
        for last in (0, 1):
            data = (shape[0], *shape[2:], shape[1]) if last else shape
            for activation, gate in (("Silu", "Sigmoid"), ("Relu", "HardSigmoid"), ("HardSwish", "Sigmoid")):
                for bias in (True, False) if gate == "Sigmoid" else (True,):
                    make = lambda rng, s=data, c=shape[1], r=r, f=f, b=bias: [
                        floats(rng, s),
                        weights(rng, (c, r), 1),
                        floats(rng, (r,)) if b else None,
                        weights(rng, (r, f), r),
                        floats(rng, (f,)) if b else None,
                    ]
                    tag = f"{name}_{activation}_{gate}{'' if bias else '_no_bias'}{'_last' if last else ''}"
                    attrs = {"activation": activation, "gate": gate, "channels_last": last}
                    constants = (1, 2, 3, 4) if bias else (1, 3)
                    yield Case(f"SqueezeExcite_{tag}", "SqueezeExcite", attrs, make, constants)
                    if shape[1] == f:
                        more = {**attrs, "apply": 1}
                        yield Case(f"SqueezeExcite_{tag}_applied", "SqueezeExcite", more, make, constants)
