"""Calibration data: checked batches of a model's inputs, which can be read any number of times and in any part.

Whatever the source, every sample is looked at once before anything is built: names, dtypes, shapes, values that are not
finite, files that cannot be read. Pictures are decoded anew each time they are read; everything else is kept in one
temporary file. Memory does not grow with the number of samples.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from temper.config import Range
from temper.errors import ConfigError, DataError
from temper.ir.types import TensorType
from temper.precision import sources
from temper.precision.batching import Cut, Fitter, Unfit
from temper.precision.images import ImageInput, Preprocess, decode, find_images, image_input
from temper.precision.scripts import is_function, load_function
from temper.precision.spool import Spool

#: After so many samples none of which can be used nobody looks for more.
_HOPELESS = 1000

#: Reasons why samples are bad that an error or a remark tells, and samples it names of each; of others, the number.
_REASONS, _NAMED = 5, 4

#: (samples read, of how many; 0 if not known)
Reading = Callable[[int, int], None]


@dataclass(frozen=True)
class BatchFingerprint:
    """What identifies a batch, and what audits look at.

    digest: of names, shapes and values.
    samples: what they are called.
    rows: digests of the samples, one a name.
    extent: (least, greatest, standard deviation) of every float input.
    """

    digest: str
    samples: tuple[str, ...]
    rows: tuple[str, ...]
    extent: Mapping[str, tuple[float, float, float]]


class Source(Protocol):
    """Batches by number."""

    def load(self, index: int) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Samples:
    """Batches by input name, in the order of the source; iterable any number of times.

    synthetic: they are made up.
    remarks: what was converted, assumed and left out.
    skipped: unusable samples left out, and why.
    """

    source: Source
    prints: tuple[BatchFingerprint, ...]
    synthetic: bool = False
    remarks: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    indices: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """A batch in arrays of its own."""
        return self.source.load(self.indices[index])

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self.source.load(i) for i in self.indices)

    def part(self, indices: Iterable[int]) -> Samples:
        """Only these batches, in this order."""
        return replace(self, indices=tuple(self.indices[i] for i in indices))

    @property
    def kept(self) -> tuple[BatchFingerprint, ...]:
        """Prints of the batches, in their order."""
        return tuple(self.prints[i] for i in self.indices)

    @property
    def names(self) -> tuple[str, ...]:
        """What each batch is called: its file, or its place in the source."""
        return tuple(p.samples[0] + (f" .. {p.samples[-1]}" if len(p.samples) > 1 else "") for p in self.kept)

    @property
    def count(self) -> int:
        """Samples in all batches."""
        return sum(len(p.samples) for p in self.kept)

    @cached_property
    def digest(self) -> str:
        """Hash of the batches' contents in their order."""
        return hashlib.sha256("".join(p.digest for p in self.kept).encode()).hexdigest()


def samples_of(
    data: Any,
    inputs: Mapping[str, TensorType],
    ranges: Sequence[Mapping[str, Range]] = (),
    *,
    preprocess: Preprocess | None = None,
    skip_bad: bool = False,
    limit: int = 0,
    reading: Reading | None = None,
    note: str = "",
) -> Samples:
    """Calibration data for a model with these inputs.

    data: a folder of pictures or of .npz files; an .npz (arrays by input name, the first axis counts samples) or .npy;
        "script.py:function", the function returning anything of what follows; "random:N", N made-up batches; an array
        or a dict of arrays with all samples; an iterable of arrays, sequences or dicts (see `batching.Fitter` for the
        shapes they may have), or a function that returns one; a calibrator with get_batch(names).
    ranges: of the inputs' symbols, in every profile.
    preprocess: of pictures.
    skip_bad: leave out what cannot be used instead of raising.
    limit: at most so many batches, all if 0.
    note: what to say of the inputs' sizes where data does not fit.

    DataError names what cannot be used and counts it, or says that there is no data. ConfigError: the data does not
    suit the model at all.
    """
    inputs = dict(inputs)
    fitter = Fitter(inputs, ranges, note)
    report = reading or (lambda done, total: None)
    if data is None:
        raise DataError("INT8 needs calibration data: give real inputs, or 'random:N' to calibrate on noise")
    if isinstance(data, Samples):
        return data
    if isinstance(data, (str, os.PathLike)):
        text = os.fspath(data)
        if text.startswith("random:"):
            return _random(text, fitter, limit)
        if is_function(text):
            items = sources.value_items(load_function(text), text, fitter)
            return _spooled(items, fitter, text, skip_bad, limit, report)
        path = Path(text)
        if path.is_dir():
            images, others = find_images(path)
            arrays = [p for p in others if p.suffix.lower() in (".npz", ".npy")]
            if images and arrays:
                both = f"({images[0].name}, {arrays[0].name})"
                raise DataError(f"{path} holds both pictures and arrays {both}: separate them")
            if images:
                return _pictures(path, images, others, fitter, preprocess, skip_bad, limit, report)
            if not arrays:
                raise DataError(f"{path} holds neither pictures nor .npz files")
            return _spooled(sources.folder_items(arrays, fitter), fitter, text, skip_bad, limit, report)
        if not path.is_file():
            raise DataError(f"there is no calibration data at {path}")
        if path.suffix.lower() not in (".npz", ".npy"):
            raise DataError(
                f"{path} is not calibration data: give a folder of pictures, an .npz or .npy, or script.py:function"
            )
        return _spooled(sources.file_items(path, fitter), fitter, text, skip_bad, limit, report)
    what = "the calibration data" if not hasattr(data, "get_batch") else type(data).__name__
    return _spooled(sources.value_items(data, what, fitter), fitter, what, skip_bad, limit, report)


def _random(text: str, fitter: Fitter, limit: int) -> Samples:
    number = text.partition(":")[2]
    if not number.isdecimal() or not int(number):
        raise ConfigError(f"{text}: give the number of batches to make up, as in random:32")
    remark = "calibrated on random numbers, not on data: ranges of activations are likely to be wrong"
    made = _spooled(sources.random_items(int(number), fitter), fitter, text, False, limit, lambda done, total: None)
    return replace(made, synthetic=True, remarks=(*made.remarks, remark))


def _spooled(
    items: Iterable[sources.Item], fitter: Fitter, what: str, skip_bad: bool, limit: int, report: Reading
) -> Samples:
    spool = Spool()
    prints: list[BatchFingerprint] = []
    bad: list[Unfit] = []
    for found in sources.cut_items(items, fitter):
        if isinstance(found, Unfit):
            bad.append(found)
            if len(bad) == _HOPELESS and not prints:
                break  # what yields them may never end
            continue
        spool.append(found.arrays)
        prints.append(_fingerprint(found))
        report(len(prints), 0)
        if len(prints) == limit:
            break
    return _checked(spool, prints, bad, fitter, what, skip_bad)


def _checked(
    source: Source, prints: Sequence[BatchFingerprint], bad: Sequence[Unfit], fitter: Fitter, what: str, skip_bad: bool
) -> Samples:
    named = _listed(bad)
    if bad and (not skip_bad or not prints):
        total = len(bad) + sum(len(p.samples) for p in prints)
        note = f"; {fitter.note}" if fitter.note and any(", the data [" in u.reason for u in bad) else ""
        raise DataError(
            f"{what}: {len(bad)} of {total} samples cannot be used: {named}"
            + ("" if not prints else " (--skip-bad, or skip_bad=True, leaves them out)")
            + note
        )
    if not prints:
        raise DataError(f"{what}: there is no data in it; give at least one batch of real inputs")
    remarks = list(fitter.remarks)
    if bad:
        remarks.append(f"{len(bad)} unusable samples were left out: {named}")
    skipped = {u.name: u.reason for u in bad}
    return Samples(source, tuple(prints), False, tuple(remarks), skipped, tuple(range(len(prints))))


def _listed(bad: Sequence[Unfit]) -> str:
    """Names by reason, the first few of each."""
    names: dict[str, list[str]] = {}
    for u in bad:
        names.setdefault(u.reason, []).append(u.name)
    out = []
    for reason, found in list(names.items())[:_REASONS]:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        out.append(f"{', '.join(dict.fromkeys(found[:_NAMED]))}{more}: {reason}")
    if len(names) > _REASONS:
        out.append(f"and {len(bad) - sum(len(f) for f in list(names.values())[:_REASONS])} more for other reasons")
    return "; ".join(out)


def _fingerprint(cut: Cut) -> BatchFingerprint:
    """Digests and extents; samples lie along the first axis where the batch has several names."""
    whole = hashlib.sha256()
    extent = {}
    for name, a in cut.arrays.items():
        whole.update(f"{name} {a.dtype} {a.shape} ".encode())
        whole.update(np.ascontiguousarray(a).reshape(-1).view(np.uint8).data if a.size else b"")
        if a.dtype.kind == "f" and a.size:
            extent[name] = (float(a.min()), float(a.max()), float(a.std(dtype=np.float64)))
    digest = whole.hexdigest()
    rows = [digest]
    if len(cut.names) > 1:
        rows = [
            hashlib.sha256(b"".join(np.ascontiguousarray(a[i]).tobytes() for a in cut.arrays.values())).hexdigest()
            for i in range(len(cut.names))
        ]
    return BatchFingerprint(digest, cut.names, tuple(rows), extent)


@dataclass(frozen=True)
class _Pictures:
    """Batches of decoded pictures."""

    files: tuple[tuple[Path, ...], ...]
    where: ImageInput
    how: Preprocess
    batched: bool

    def load(self, index: int) -> dict[str, np.ndarray]:
        arrays = [decode(p, self.where, self.how) for p in self.files[index]]
        return {self.where.name: np.stack(arrays) if self.batched else arrays[0]}


def _pictures(
    folder: Path,
    files: Sequence[Path],
    others: Sequence[Path],
    fitter: Fitter,
    preprocess: Preprocess | None,
    skip_bad: bool,
    limit: int,
    report: Reading,
) -> Samples:
    how = preprocess or Preprocess()
    (name,) = fitter.inputs if len(fitter.inputs) == 1 else ("",)
    shape = fitter.optimal_shape(name) if name else ()
    where = image_input(dict(fitter.inputs), shape)
    batched = len(shape) == 4
    size = shape[0] if batched else 1
    if limit:
        files = files[: limit * size]

    def look(path: Path) -> Cut | Unfit:
        called = str(path.relative_to(folder))
        try:
            return Cut({name: decode(path, where, how)}, (called,))
        except DataError as e:
            return Unfit(called, str(e).removeprefix(f"{path}: "))

    good: list[Path] = []
    seen: list[BatchFingerprint] = []
    bad: list[Unfit] = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        # in pieces, so that pictures which are decoded already do not pile up
        for start in range(0, len(files), 64):
            piece = files[start : start + 64]
            for path, found in zip(piece, pool.map(lambda p: _printed(look(p)), piece), strict=True):
                if isinstance(found, Unfit):
                    bad.append(found)
                else:
                    good.append(path)
                    seen.append(found)
            report(min(start + 64, len(files)), len(files))
    whole = len(good) // size * size
    if whole < len(good):
        left = len(good) - whole
        fitter.remarks[f"the last {left} pictures were left out: they do not fill a batch of {size}"] = None
    if good and not whole:
        raise DataError(f"{folder}: {len(good)} pictures do not fill one batch of {size}")
    if preprocess is None:
        fitter.remarks[f"pictures are made inputs by the default ({how}); say what the model was trained with"] = None
    if others:
        shown = ", ".join(p.name for p in others[:3]) + (" ..." if len(others) > 3 else "")
        fitter.remarks[f"{len(others)} files in {folder} are not pictures: {shown}"] = None
    batches = [range(i, i + size) for i in range(0, whole, size)]
    source = _Pictures(tuple(tuple(good[k] for k in b) for b in batches), where, how, batched)
    prints = [_merged([seen[k] for k in b]) for b in batches]
    return _checked(source, prints, bad, fitter, str(folder), skip_bad)


def _printed(found: Cut | Unfit) -> BatchFingerprint | Unfit:
    return found if isinstance(found, Unfit) else _fingerprint(found)


def _merged(prints: Sequence[BatchFingerprint]) -> BatchFingerprint:
    """Of a batch, from its pictures' prints (the deviation is their mean)."""
    if len(prints) == 1:
        return prints[0]
    digest = hashlib.sha256("".join(p.digest for p in prints).encode()).hexdigest()
    extent = {
        k: (
            min(p.extent[k][0] for p in prints),
            max(p.extent[k][1] for p in prints),
            float(np.mean([p.extent[k][2] for p in prints])),
        )
        for k in prints[0].extent
    }
    names = tuple(s for p in prints for s in p.samples)
    return BatchFingerprint(digest, names, tuple(p.rows[0] for p in prints), extent)


def split(samples: Samples) -> tuple[Samples, Samples]:
    """(for calibration, held back): every fourth batch is held back, of fewer than four the last. A single batch
    serves as both, which a remark of both says."""
    n = len(samples)
    if n == 1:
        remark = "there is one batch only: it is calibrated on and also judged by; give more data"
        both = replace(samples, remarks=(*samples.remarks, remark))
        return both, both
    held = [i for i in range(n) if i % 4 == 3] or [n - 1]
    return samples.part(i for i in range(n) if i not in set(held)), samples.part(held)
