"""Tasks to train networks for: samples and labels from a seed, and what a score is.

Samples to train, to calibrate and to score are made of different digits, stripes of the photographs, parts of the files
and numbers. Scores are of one answer a sample, so that a loss can be told in samples;
but dB where the output is an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.holdout.sources import CHARACTERS, Sources

Samples = tuple[np.ndarray, np.ndarray]

#: Digits of a line of text.
_LINE = 5

#: Which fifths of the raw material a split is made of.
_FIFTHS: Mapping[str, tuple[int, ...]] = {"train": (0, 1, 2), "calibration": (3,), "test": (4,)}


@dataclass(frozen=True)
class Task:
    """shape: of one sample.
    tokens: they are integers below `tokens`.
    outputs: of the network.
    kind: "class" (one label a sample), "steps" (a label a position), "sequence" (a label a position, -1 where none is
        asked; all must be right), "pixels", "values" or "image".
    make: samples and labels of one split: "train", "calibration" or "test".
    """

    name: str
    shape: tuple[int, ...]
    outputs: int
    kind: str
    make: Callable[[Sources, str, int, np.random.Generator], Samples]
    tokens: int = 0

    @property
    def decibels(self) -> bool:
        return self.kind == "image"

    def score(self, y: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Of every sample, between 0 and 1; for images the mean squared error. outputs: [n, classes, ...], of
        sequences [n, positions, classes]."""
        if self.kind == "class":
            return np.asarray(outputs.argmax(1) == y, np.float64)
        if self.kind in ("steps", "sequence"):
            right, asked = outputs.argmax(-1) == y, y >= 0
            if self.kind == "sequence":
                return np.asarray((right | ~asked).all(-1), np.float64)
            return np.asarray((right & asked).sum(-1) / asked.sum(-1), np.float64)
        if self.kind == "pixels":
            return np.asarray((outputs.argmax(1) == y).mean((1, 2)), np.float64)
        error = ((outputs.astype(np.float64) - y) ** 2).reshape(len(y), -1).mean(1)
        if self.kind == "image":
            return np.asarray(error)
        # of values 1 - error / variance, whose mean is the share of the variance that is explained
        return np.asarray(1 - error / y.astype(np.float64).var(axis=0).mean())


# ---- pictures ----


def _sampled(images: np.ndarray, side: int, rng: np.random.Generator, tight: float = 1.0) -> np.ndarray:
    """Each picture [n, h, w] turned, scaled, sheared and shifted, as [n, side, side] of floats; bilinear."""
    n, h, w = images.shape
    angle = rng.normal(0, 0.16, n)
    scale = (h / side) * tight * rng.uniform(0.8, 1.2, n)
    shear = rng.normal(0, 0.12, n)
    ys, xs = np.meshgrid(*(np.arange(side) - (side - 1) / 2,) * 2, indexing="ij")
    c, s = (f(angle)[:, None, None] * scale[:, None, None] for f in (np.cos, np.sin))
    move = rng.normal(0, 0.05 * h, (2, n, 1, 1))
    x = c * xs - s * ys + shear[:, None, None] * ys + (w - 1) / 2 + move[0]
    y = s * xs + c * ys + (h - 1) / 2 + move[1]
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    at = np.arange(n)[:, None, None]
    found = np.zeros(x.shape, np.float32)
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (1 - np.abs(y - y0 - dy)) * (1 - np.abs(x - x0 - dx))
            found += weight * padded[at, np.clip(y0 + dy + 1, 0, h + 1), np.clip(x0 + dx + 1, 0, w + 1)]
    return found


def _patches(src: Sources, split: str, n: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """[n, 3, side, side] of floats below 1, from stripes of the photographs 64 wide."""
    photos = src["photos"]
    h, w = photos.shape[1:3]
    stripe = rng.choice(_FIFTHS[split], n) + 5 * rng.integers(0, w // 320, n)
    which, y, x = rng.integers(0, 2, n), rng.integers(0, h - side, n), 64 * stripe + rng.integers(0, 65 - side, n)
    found = np.stack([photos[k, b : b + side, a : a + side] for k, b, a in zip(which, y, x, strict=True)])
    found = np.where(rng.random((n, 1, 1, 1)) < 0.5, found[:, :, ::-1], found)
    return np.ascontiguousarray(found.transpose(0, 3, 1, 2), np.float32) / 255


def _glyphs(src: Sources, split: str, n: int, rng: np.random.Generator) -> Samples:
    """A character in colour before a piece of a photograph."""
    y = rng.integers(0, len(CHARACTERS), n)
    masks = _sampled(src["masks"][rng.integers(0, 4, n), y] / np.float32(255), 32, rng, 0.75)[:, None]
    back = _patches(src, split, n, 32, rng)
    ink = rng.uniform(0, 1, (n, 3, 1, 1)).astype(np.float32)
    x = back * (1 - masks) + ink * masks + rng.normal(0, 0.06, back.shape).astype(np.float32)
    return (x - 0.5) * 4, y


def _letters(src: Sources, split: str, n: int, rng: np.random.Generator) -> Samples:
    """A character in 16 x 16, grey on grey."""
    y = rng.integers(0, len(CHARACTERS), n)
    masks = _sampled(src["masks"][rng.integers(0, 4, n), y] / np.float32(255), 16, rng, 0.75)[:, None]
    back, ink = rng.uniform(-1, 0, (n, 1, 1, 1)), rng.uniform(0.3, 2, (n, 1, 1, 1))
    return (back + ink * masks + rng.normal(0, 0.12, masks.shape)).astype(np.float32), y


def _digits(src: Sources, split: str, n: int, rng: np.random.Generator) -> Samples:
    """A handwritten digit in 16 x 16, brightness and noise varied."""
    images, labels = src["digits"] / np.float32(255), src["digit_labels"]
    chosen = rng.choice(_FIFTHS[split], n) + 5 * rng.integers(0, len(images) // 5, n)
    x = _sampled(images[chosen], 16, rng)[:, None]
    x = x * np.exp2(rng.uniform(-1.5, 1, (n, 1, 1, 1))) + rng.normal(0, 0.12, x.shape)
    return x.astype(np.float32), labels[chosen].astype(np.int64)


def _lines(src: Sources, split: str, n: int, rng: np.random.Generator) -> Samples:
    """Five digits beside each other, in 24 x 80."""
    y = rng.integers(0, 10, (n, _LINE))
    parts = [_sampled(src["masks"][rng.integers(0, 4, n), y[:, i]] / np.float32(255), 24, rng, 0.85) for i in range(5)]
    x = np.zeros((n, 1, 24, 80), np.float32)
    for i, p in enumerate(parts):
        at = 14 * i
        x[:, 0, :, at : at + 24] = np.maximum(x[:, 0, :, at : at + 24], p)
    x = x * rng.uniform(0.3, 1, (n, 1, 1, 1)) + rng.uniform(0, 0.3, (n, 1, 1, 1))
    return (x + rng.normal(0, 0.12, x.shape)).astype(np.float32) * 2, y


def _segments(src: Sources, split: str, n: int, rng: np.random.Generator) -> Samples:
    """A disc, a box and a character before a photograph; which one covers every pixel."""
    side = 32
    x = _patches(src, split, n, side, rng)
    y = np.zeros((n, side, side), np.int64)
    ys, xs = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    for kind in (1, 2, 3):
        cy, cx, r = (rng.uniform(a, b, (n, 1, 1)) for a, b in ((7, 25), (7, 25), (3, 8)))
        if kind == 1:
            inside = (ys - cy) ** 2 + (xs - cx) ** 2 < r**2
        elif kind == 2:
            inside = (np.abs(ys - cy) < r) & (np.abs(xs - cx) < 0.7 * r)
        else:
            masks = src["masks"][rng.integers(0, 2, n), rng.integers(0, len(CHARACTERS), n)] / np.float32(255)
            inside = _sampled(masks, side, rng, 0.9) > 0.5
        colour = rng.uniform(0, 1, (n, 3, 1, 1)).astype(np.float32)
        blend = 0.8 * inside[:, None].astype(np.float32)
        x = x * (1 - blend) + colour * blend
        y[inside] = kind
    return (x + rng.normal(0, 0.05, x.shape).astype(np.float32) - 0.5) * 4, y


def _pose(src: Sources, split: str, n: int, rng: np.random.Generator) -> Samples:
    """An ellipse before a photograph: place, size, flatness and direction, each about 1 in spread."""
    side = 24
    ys, xs = np.meshgrid(*(np.linspace(-1, 1, side),) * 2, indexing="ij")
    cx, cy, size, flat, angle = rng.uniform(-1, 1, (5, n, 1, 1))
    a = np.pi / 2 * angle
    dx, dy = xs - 0.5 * cx, ys - 0.5 * cy
    along, across = np.cos(a) * dx + np.sin(a) * dy, np.cos(a) * dy - np.sin(a) * dx
    r = 0.35 + 0.15 * size
    inside = (along / r) ** 2 + (across / (r * (0.55 + 0.25 * flat))) ** 2
    blend = (1 / (1 + np.exp(np.clip(12 * (inside - 1), -50, 50))))[:, None].astype(np.float32)
    x = _patches(src, split, n, side, rng) * (1 - blend) + rng.uniform(0, 1, (n, 3, 1, 1)).astype(np.float32) * blend
    x = (x + rng.normal(0, 0.03, x.shape).astype(np.float32) - 0.5) * 4
    round_off = np.where(flat > 0.9, 0.0, 1.0)
    y = np.concatenate([cx, cy, size, flat, round_off * np.cos(2 * a), round_off * np.sin(2 * a)], 1)[:, :, 0]
    return x, (1.5 * y).astype(np.float32)


def _noisy(src: Sources, split: str, n: int, rng: np.random.Generator) -> Samples:
    """A piece of a photograph, and the same with noise."""
    y = _patches(src, split, n, 24, rng) - 0.5
    level = rng.uniform(0.02, 0.15, (n, 1, 1, 1))
    return (y + level * rng.normal(0, 1, y.shape)).astype(np.float32), y


# ---- sequences ----


def _places(split: str, n: int, length: int, total: int, rng: np.random.Generator) -> np.ndarray:
    """Where pieces of a file begin: it is divided into parts of 2000 bytes."""
    part = rng.choice(_FIFTHS[split], n) + 5 * rng.integers(0, total // 10_000, n)
    found: np.ndarray = 2000 * part + rng.integers(0, 2001 - length, n)
    return found


def _bytes(src: Sources, split: str, n: int, rng: np.random.Generator) -> Samples:
    """128 bytes of a file of some kind."""
    rows = src["bytes"]
    y, at = rng.integers(0, len(rows), n), _places(split, n, 128, rows.shape[1], rng)
    return rows[y[:, None], at[:, None] + np.arange(128)].astype(np.int64), y


def _next(src: Sources, split: str, n: int, rng: np.random.Generator) -> Samples:
    """64 bytes of a program, and the byte after each."""
    rows = src["bytes"][:8] % 128
    row, at = rng.integers(0, len(rows), n), _places(split, n, 65, rows.shape[1], rng)
    text = rows[row[:, None], at[:, None] + np.arange(65)].astype(np.int64)
    return text[:, :64], text[:, 1:]


def _sums(src: Sources, split: str, n: int, rng: np.random.Generator) -> Samples:
    """Two numbers of four digits and their sum, the lowest digit first: abcd+efgh=ijklm. Splits have other
    sums."""
    a, b = rng.integers(0, 10_000, (2, n))
    b += (rng.choice(_FIFTHS[split], n) - a - b) % 5
    b -= 10_000 * (b >= 10_000)
    digits = [(a // 10**k) % 10 for k in range(4)] + [np.full(n, 10)] + [(b // 10**k) % 10 for k in range(4)]
    digits += [np.full(n, 11)] + [((a + b) // 10**k) % 10 for k in range(5)]
    text = np.stack(digits, 1).astype(np.int64)
    y = text[:, 1:].copy()
    y[:, :9] = -1
    return text[:, :-1], y


def _sorted(src: Sources, split: str, n: int, rng: np.random.Generator) -> Samples:
    """Eight letters and the same in order."""
    letters = rng.integers(0, 12, (n, 8))
    text = np.concatenate([letters, np.full((n, 1), 12), np.sort(letters, axis=1)], 1).astype(np.int64)
    y = text[:, 1:].copy()
    y[:, :8] = -1
    return text[:, :-1], y


def _speech(src: Sources, split: str, n: int, rng: np.random.Generator) -> Samples:
    """Logarithms of spectra over time of made-up words: each a course of three resonances, with pitch, speed, voice and
    noise varied. [1, 40 bands, 48 times]."""
    words = np.random.default_rng(12345)
    courses = words.uniform(4, 34, (12, 3, 4))
    # words come in pairs that differ little
    courses[1::2] = courses[::2] + words.normal(0, 1.6, (6, 3, 4))
    voiced = np.repeat(words.random((6, 4)) < 0.7, 2, axis=0)
    y = rng.integers(0, 12, n)
    time = np.arange(48)
    start, length = rng.uniform(2, 14, (n, 1)), rng.uniform(22, 32, (n, 1))
    at = np.clip((time - start) / length, 0, 1) * 2.999
    i, part = at.astype(int), at - at.astype(int)
    active = (time >= start) & (time <= start + length)
    bands = np.arange(40)[None, :, None]
    track = rng.uniform(0.92, 1.08, (n, 1, 1)) + 0 * bands
    energy = np.full((n, 40, 48), 1e-4)
    for f in range(3):
        here = courses[y, f]
        line = np.take_along_axis(here, i, 1) * (1 - part) + np.take_along_axis(here, i + 1, 1) * part
        width = rng.uniform(1, 2, (n, 1, 1))
        energy += np.exp(-(((bands - line[:, None] * track) / width) ** 2)) * rng.uniform(0.4, 1, (n, 1, 1))
    pitch = rng.uniform(2.2, 4.5, (n, 1, 1))
    comb = 0.55 + 0.45 * np.cos(2 * np.pi * np.sqrt(bands + 1) * pitch)
    energy *= np.where(np.take_along_axis(voiced[y], i, 1)[:, None], comb, 0.6)
    energy *= active[:, None] * np.exp(rng.normal(0, 1.2, (n, 1, 1)))
    energy += np.exp(rng.uniform(-5, -1.5, (n, 1, 1))) * rng.exponential(1, energy.shape)
    return np.log(energy + 1e-3)[:, None].astype(np.float32), y


def _series(src: Sources, split: str, n: int, rng: np.random.Generator) -> Samples:
    """[64 times, 3]: one of ten kinds of movement, seen with noise and drift."""
    y = rng.integers(0, 10, n)
    t = np.arange(64)[None] / 64
    rate, phase = rng.uniform(1.5, 5, (n, 1)), rng.uniform(0, 2 * np.pi, (n, 1))
    turn = 2 * np.pi * rate * t + phase
    walk = rng.normal(0, 1, (n, 64)).cumsum(1) / 8
    shapes = [
        np.sin(turn), np.sign(np.sin(turn)), 2 * ((turn / (2 * np.pi)) % 1) - 1, np.sin(turn + 2 * np.sin(turn)),
        np.sin(turn * (0.5 + t)), np.sin(turn) * np.exp(-2 * t), np.sin(turn) * np.sin(turn * 0.31), walk,
        np.abs(np.sin(turn)) * 2 - 1, np.sin(turn) ** 3,
    ]  # fmt: skip
    base = np.stack(shapes)[y, np.arange(n)]
    lag = np.roll(base, 5, axis=1)
    x = np.stack([base, lag * rng.uniform(0.5, 1.5, (n, 1)), np.diff(base, axis=1, prepend=0) * 3], -1)
    x += rng.normal(0, 0.35, x.shape) + rng.normal(0, 0.3, (n, 1, 3))
    return x.astype(np.float32), y


TASKS: Mapping[str, Task] = {
    t.name: t
    for t in (
        Task("glyphs", (3, 32, 32), len(CHARACTERS), "class", _glyphs),
        Task("letters", (1, 16, 16), len(CHARACTERS), "class", _letters),
        Task("digits", (1, 16, 16), 10, "class", _digits),
        Task("lines", (1, 24, 80), 10, "sequence", _lines),
        Task("segments", (3, 32, 32), 4, "pixels", _segments),
        Task("pose", (3, 24, 24), 6, "values", _pose),
        Task("noisy", (3, 24, 24), 3, "image", _noisy),
        Task("bytes", (128,), 14, "class", _bytes, 256),
        Task("next", (64,), 128, "steps", _next, 128),
        Task("sums", (14,), 12, "sequence", _sums, 12),
        Task("sorted", (16,), 13, "sequence", _sorted, 13),
        Task("speech", (1, 40, 48), 12, "class", _speech),
        Task("series", (64, 3), 10, "class", _series),
    )
}
