"""Cases of attention: layouts, grouped heads, masks, causality, queries that see nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tests.ops.case import Case, Rng, floats, numbers

#: name: (B, heads, kv_heads, S, T, D, E)
_SHAPES = {
    "bert": (2, 4, 4, 20, 20, 16, 16),
    "odd": (1, 3, 3, 7, 13, 5, 9),
    "grouped": (2, 6, 2, 9, 9, 8, 8),
    "step": (2, 2, 1, 1, 33, 16, 16),
    "wide": (1, 2, 2, 37, 70, 40, 35),
    "one_key": (2, 2, 2, 3, 1, 4, 4),
}
_MASKS = {"none": "", "padding": "b11t", "rows": "11st", "full": "bhst", "heads": "1h1t", "plane": "st"}


def _operand(rng: Rng, b: int, h: int, s: int, d: int, letter: str) -> np.ndarray:
    return floats(rng, (b, s, h * d) if letter == "r" else (b, h, s, d), low=-1.5, high=1.5)


def _mask(rng: Rng, kind: str, sizes: Sequence[int]) -> np.ndarray:
    b, h, s, t = sizes
    shape = tuple({"b": b, "h": h, "s": s, "t": t, "1": 1}[c] for c in kind)
    out = floats(rng, shape)
    if t > 1:
        out[rng.random(shape) < 0.3] = -np.inf
        out[..., 0] = 0.5  # every query sees something
    return out


def _case(
    name: str, shape: Sequence[int], layout: str, mask: str, causal: int, safe: int = 0, blind: bool = False
) -> Case:
    b, h, g, s, t, d, e = shape

    def make(rng: Rng) -> list[np.ndarray | None]:
        sizes = ((b, h, s, d), (b, g, t, d), (b, g, t, e))
        out: list[np.ndarray | None] = [_operand(rng, *n, c) for n, c in zip(sizes, layout, strict=False)]
        if mask:
            m = _mask(rng, mask, (b, h, s, t))
            if blind:
                m[..., -1, :] = -np.inf
            out.append(m)
        return out

    attrs = {"heads": h, "kv_heads": g, "scale": float(d) ** -0.5, "layout": layout, "causal": causal, "safe": safe}
    return Case(f"Attention_{name}", "Attention", attrs, make)


def _codes(case: Case, k: int) -> Case:
    """The same attention of codes over their whole range; signed and unsigned queries take turns."""
    dtype, zero = (("int8", 0), ("uint8", 0), ("uint8", 131), ("int8", -5))[k % 4]

    def make(rng: Rng) -> list[np.ndarray | None]:
        q, keys, v, *mask = case.make(rng)
        assert q is not None and keys is not None and v is not None
        codes = (numbers(rng, x.shape, t) for x, t in ((q, dtype), (keys, "int8"), (v, "int8")))
        return [*codes, *(mask or [None]), scale]

    attrs = {**case.attrs, "zero_point": zero}
    # scores of a few units, as trained models have
    scale = np.array(5e-4 * float(str(attrs.pop("scale"))), np.float32)
    return Case(case.name.replace("Attention", "AttentionInt8"), "AttentionInt8", attrs, make)


def cases() -> Iterator[Case]:
    floats = list(_floats())
    yield from floats
    yield from (_codes(c, k) for k, c in enumerate(floats))


def _floats() -> Iterator[Case]:
    layouts = ("rrrr", "hhhh", "rhhr", "hrrh")
    for i, (name, shape) in enumerate(_SHAPES.items()):
        for j, (label, mask) in enumerate(_MASKS.items()):
            causal = int((i + j) % 3 == 0 and shape[3] <= shape[4] and label != "padding")
            layout = layouts[(i + j) % 4]
            yield _case(f"{name}_{label}_{layout}{'_causal' if causal else ''}", shape, layout, mask, causal)
    yield _case("blind", _SHAPES["bert"], "rrrr", "b1st", 0, 0, True)
    yield _case("blind_safe", _SHAPES["bert"], "rrrr", "b1st", 0, 1, True)
    yield _case("causal_more_queries", (1, 2, 2, 12, 5, 8, 8), "rrrr", "", 1, 1)
