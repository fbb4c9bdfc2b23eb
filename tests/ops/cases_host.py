"""Cases of ops on strings, of random ops, of images and of tree ensembles."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from temper.ir.opdef import AttrValue
from tests.ops.case import Arrays, Case, Rng, fixed, floats, numbers


def words(*texts: str, shape: Sequence[int] = (-1,)) -> np.ndarray:
    out = np.empty(len(texts), object)
    out[:] = texts
    return out.reshape(tuple(shape))


def _strings() -> Iterator[Case]:
    week = words("Monday", "tuesday", "été", "MONDAY", "")
    for action in ("LOWER", "UPPER", "NONE"):
        attrs: dict[str, AttrValue] = {"case_change_action": action, "is_case_sensitive": 1, "stopwords": ("monday",)}
        yield Case(f"StringNormalizer_{action}", "StringNormalizer", {**attrs, "count": 5}, fixed(week))
    attrs = {"is_case_sensitive": 0, "stopwords": ("monday", "été"), "count": 2}
    yield Case("StringNormalizer_insensitive", "StringNormalizer", attrs, fixed(week[None]))
    gone: dict[str, AttrValue] = {"is_case_sensitive": 1, "stopwords": tuple(week.tolist()), "count": 1}
    yield Case("StringNormalizer_nothing_left", "StringNormalizer", gone, fixed(week))
    left, right = words("a", "ß", "", "x y", shape=(2, 2)), words("1", "水")
    yield Case("StringConcat", "StringConcat", {}, fixed(left, right))
    yield Case("StringConcat_broadcast", "StringConcat", {}, fixed(left[:, :1], right[:1]))
    lines = words("a,b,,c", "", ",", "no", shape=(2, 2))
    yield Case("StringSplit_comma", "StringSplit", {"delimiter": ",", "count": 4}, fixed(lines))
    yield Case("StringSplit_most", "StringSplit", {"delimiter": ",", "maxsplit": 1, "count": 2}, fixed(lines))
    yield Case("StringSplit_spaces", "StringSplit", {"count": 3}, fixed(words(" a  b\tc ", "d", "  ")))
    mails = words("a@x.com", "b@y.org", "", "c@x.com ")
    yield Case("RegexFullMatch", "RegexFullMatch", {"pattern": r"[a-z]+@x\.(com|org)"}, fixed(mails))
    yield Case("RegexFullMatch_empty", "RegexFullMatch", {"pattern": ""}, fixed(mails[:, None]))


def _tables() -> Iterator[Case]:
    keys, values, x = np.array([3, 1, 7]), np.array([0.5, -1.5, 2.5], np.float32), np.array([[1, 2], [7, 3]])
    yield Case(
        "LabelEncoder_floats", "LabelEncoder", {}, fixed(x, keys, values, np.array([9.0], np.float32)), (1, 2, 3)
    )
    fruit = words("apple", "pear")
    encode = fixed(words("pear", "fig", "apple"), fruit, np.array([5, 6]), np.array([-1]))
    yield Case("LabelEncoder_from_strings", "LabelEncoder", {}, encode, (1, 2, 3))
    decode = fixed(np.array([np.nan, 1.0, 2.0], np.float32), np.array([2.0, np.nan], np.float32), fruit, words("none"))
    yield Case("LabelEncoder_to_strings", "LabelEncoder", {}, decode, (1, 2, 3))
    pool, columns = np.array([2, 3, 5, 4, 5, 6, 7, 8, 6, 7]), np.array([0, 1, 2, 3, 4, 5, 6])
    text = np.array([[1, 1, 3, 3, 3, 7], [8, 6, 7, 5, 6, 8]])
    for mode in ("TF", "IDF", "TFIDF"):
        for skip in (0, 5):
            attrs: dict[str, AttrValue] = {
                "mode": mode,
                "min_gram_length": 1 if skip else 2,
                "max_gram_length": 2,
                "max_skip_count": skip,
                "starts": (0, 4),
                "width": 7,
            }
            weights = np.array([0.5, 2, 3, 4, 5, 6, 7], np.float32) if mode != "TF" else None
            yield Case(
                f"TfIdfVectorizer_{mode}_{skip}",
                "TfIdfVectorizer",
                attrs,
                fixed(text, pool, columns, weights),
                (1, 2, 3),
            )


def _random() -> Iterator[Case]:
    for to in ("float32", "float64", "float16"):
        attrs: dict[str, AttrValue] = {"shape": (3, 1, 4), "to": to, "seed": 3.0}
        yield Case(f"RandomUniform_{to}", "RandomUniform", {**attrs, "low": -1.0, "high": 2.0}, fixed())
        yield Case(f"RandomNormal_{to}", "RandomNormal", {**attrs, "mean": 5.0, "scale": 0.1}, fixed())
    yield Case("Multinomial", "Multinomial", {"sample_size": 7, "seed": 1.5}, lambda rng: [floats(rng, (3, 5))])


def png(pixels: np.ndarray) -> np.ndarray:
    """The bytes of a PNG file of RGB pixels, uint8 [H, W, 3]."""
    height, width, _ = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return np.frombuffer(data, np.uint8).copy()


def _images() -> Iterator[Case]:
    for kind in ("RGB", "BGR", "Grayscale"):
        yield Case(
            f"ImageDecoder_{kind}",
            "ImageDecoder",
            {"pixel_format": kind, "count": (5, 3)},
            lambda rng: [png(numbers(rng, (5, 3, 3), "uint8"))],
        )


def forest(rng: Rng, features: int, trees: int, depth: int, targets: int, dtype: str, modes: int) -> Arrays:
    """The constant operands of random complete trees whose nodes use the first `modes` comparisons; every leaf has an
    entry for some targets, none for the first leaf."""
    inner, leaves = trees * (2**depth - 1), trees * 2**depth
    children = np.empty((inner, 2), np.int32)
    for t in range(trees):
        first, leaf = t * (2**depth - 1), t * 2**depth
        for k in range(2**depth - 1):
            for side in (0, 1):
                child = 2 * k + 1 + side
                below = child - (2**depth - 1)
                children[first + k, side] = ~(leaf + below) if below >= 0 else first + child
    sizes = rng.integers(0, targets + 1, leaves)
    sizes[0] = 0
    entries = [rng.permutation(targets)[:n] for n in sizes]
    mode = rng.integers(0, modes, inner).astype(np.uint8)
    members = np.array([-1, 0.5, np.nan, 2, np.nan, 1, 0, np.nan], dtype)
    ranges = np.array([(0, 2), (3, 4), (5, 7)], np.int32)[rng.integers(0, 3, inner)]
    threshold = np.round(rng.uniform(-2, 2, inner) * 2) / 2
    flat = np.concatenate(entries) if leaves else np.zeros(0)
    return [
        rng.integers(0, features, inner).astype(np.int32),
        mode,
        threshold.astype(dtype),
        children,
        rng.random(inner) < 0.5,
        np.where((mode == 6)[:, None], ranges, 0).astype(np.int32),
        members,
        (np.arange(trees) * (2**depth - 1)).astype(np.int32),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
        flat.astype(np.int32),
        rng.standard_normal(len(flat)).astype(dtype),
    ]


def _trees() -> Iterator[Case]:
    constant = tuple(range(1, 12))

    def make(aggregate: str, rows: int, trees: int, depth: int, targets: int, dtype: str, modes: int) -> Case:
        def operands(rng: Rng) -> Arrays:
            x = (np.round(rng.uniform(-2, 2, (rows, 5)) * 2) / 2).astype(dtype)
            x[rng.random(x.shape) < 0.1] = np.nan
            return [x, *forest(rng, 5, trees, depth, targets, dtype, modes)]

        name = f"TreeEnsemble_{rows}_{trees}_{depth}_{targets}_{dtype}_{modes}"
        attrs: dict[str, AttrValue] = {"targets": targets, "aggregate": aggregate}
        return Case(name, "TreeEnsemble", attrs, operands, constant)

    for k, aggregate in enumerate(("SUM", "AVERAGE", "MIN", "MAX")):
        yield make(aggregate, 7 + k, 3, 3, 2, "float32", 7)
    yield make("SUM", 33, 20, 4, 1, "float32", 1)
    yield make("SUM", 5, 4, 2, 3, "float64", 6)
    yield make("SUM", 1, 1, 1, 1, "float32", 4)


def cases() -> Iterator[Case]:
    yield from _strings()
    yield from _tables()
    yield from _random()
    yield from _images()
    yield from _trees()
