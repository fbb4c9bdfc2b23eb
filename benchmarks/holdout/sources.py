"""Raw material of the tasks, from what an installation of Python, scikit-learn and Pillow brings along: handwritten
digits, two photographs, rendered characters, and the bytes of Python's own files. Collected once into one file."""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping
from pathlib import Path

import numpy as np

#: Side of a rendered character.
MASK = 40

#: Characters, some of them alike: 0 O o, 1 l I, 5 S s, 2 Z z.
CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"

#: Packages of the standard library that make a class of text each; beside them compiled and binary files.
PACKAGES = (
    "asyncio", "ctypes", "email", "encodings", "http", "idlelib", "importlib", "multiprocessing", "pydoc_data",
    "tkinter", "unittest", "xml",
)  # fmt: skip

#: Bytes kept of each kind of file.
_KEPT = 200_000

Sources = Mapping[str, np.ndarray]


def sources(path: Path) -> Sources:
    """Arrays by name, collected into the file if it is not there: `digits` [n, 8, 8], `digit_labels` [n], `masks`
    [style, character, 40, 40], `photos` [2, h, w, 3] and `bytes` [kind, 200000], all uint8."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **_collected())
    with np.load(path) as found:
        return {k: found[k] for k in found.files}


def _collected() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits, load_sample_images

    images, labels = load_digits(return_X_y=True)
    photos = np.stack(load_sample_images().images)
    return {
        "digits": (images.reshape(-1, 8, 8) * 15.9375).astype(np.uint8),
        "digit_labels": labels.astype(np.uint8),
        "masks": _masks(),
        "photos": photos.astype(np.uint8),
        "bytes": _bytes(),
    }


def _masks() -> np.ndarray:
    """Every character in four styles: plain, bold, hollow, slanted."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(30)
    plain = []
    for c in CHARACTERS:
        image = Image.new("L", (MASK, MASK))
        ImageDraw.Draw(image).text((MASK // 2, MASK // 2), c, fill=255, font=font, anchor="mm")
        plain.append(np.asarray(image))
    a = np.stack(plain)
    around = [np.roll(a, (dy, dx), (1, 2)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    bold = np.maximum.reduce(around)
    hollow = bold - np.minimum(bold, np.minimum.reduce(around))
    slanted = a.copy()
    for y in range(MASK):
        slanted[:, y] = np.roll(a[:, y], round((MASK / 2 - y) * 0.3), 1)
    return np.stack([a, bold, hollow, slanted])


def _bytes() -> np.ndarray:
    library = Path(sysconfig.get_path("stdlib"))
    kinds = [library.joinpath(p).rglob("*.py") for p in PACKAGES]
    kinds += [library.joinpath("json").parent.glob("__pycache__/*.pyc"), library.glob("lib-dynload/*.so")]
    rows = []
    for files in kinds:
        each = [f.read_bytes()[:40_000] for f in sorted(files) if "test" not in f.parts]
        joined = b"".join(each)
        if len(joined) < 20_000:
            raise SystemExit(f"this installation of Python lacks files of its library under {library}")
        row = np.frombuffer((joined * (_KEPT // len(joined) + 1))[:_KEPT], np.uint8)
        rows.append(row)
    return np.stack(rows)
