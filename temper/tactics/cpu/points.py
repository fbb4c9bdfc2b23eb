"""The part that Winograd convolutions of floats and of codes share: the products at all points (templates/points.h)."""

from __future__ import annotations

from collections.abc import Mapping

#: Terms between two fetches of weights.
_UNROLLED = 4


def odd_lines(words: int) -> int:
    """Words of 4 bytes in the least odd number of cache lines that holds so many (ODD_LINES in points.h)."""
    return (-(-words // 16) | 1) * 16


def products_at_points(
    points: int, words: int, pairs: bool, tiles: int, mr: int, nb: int, vectors: int, lanes: int, ahead: int
) -> Mapping[str, int | str]:
    """Macros of points.h.

    words: terms of a product.
    pairs: of two int16 each, else of one float.
    tiles: of a block.
    mr, nb: register tile in rows and vectors.
    vectors: of output channels.
    ahead: KiB that weights are fetched ahead, 0 for not at all.
    """
    last = vectors - (-(-vectors // nb) - 1) * nb
    # every row group of a block fetches its part of the weights that the block consumes
    lines = -(-_UNROLLED * nb * lanes * 4 // (64 * -(-tiles // mr))) if ahead else 0
    return {
        "POINTS": points,
        "WORDS": words,
        "PAIRS": int(pairs),
        "TB": tiles,
        "MR": mr,
        "NB": nb,
        "NBL": last,
        "UNROLLED": _UNROLLED,
        "LINES": lines,
        "AHEAD": ahead << 10,
        "KERNELS(X)": " ".join(f"X({r}, {v})" for r in range(1, mr + 1) for v in sorted({nb, last})),
        "CASES(X)": " ".join(f"X({r})" for r in range(1, mr + 1)),
    }
