"""Calibration: runs the float model, compiled with a histogram of every tensor that may carry codes, over all samples.

Histograms merge exactly, so the result does not depend on the batches' size or order, and a calibration that was
interrupted resumes where it stopped: its state is in a file whose name is a digest of the model, the tensors and the
data.
"""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from temper.builder import build_plan
from temper.config import BuildConfig, Profile, Range
from temper.errors import BuildError
from temper.ir.graph import Graph
from temper.passes.pipeline import PIPELINE
from temper.precision.data import Samples
from temper.quantize.calibrate import Observed, in_order, instrumented, vectors_of
from temper.quantize.histogram import Accumulator, Histogram
from temper.runtime.engine import Engine
from temper.target import target_of
from temper.tune.select import Progress

#: Seconds between two writes of the state file.
_SAVE_EVERY = 5.0

#: State files of finished and interrupted calibrations that a folder keeps; the oldest go.
_KEPT = 32

#: Rises when the state file's contents change.
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was observed. halves: the calibration batches of even and of odd number. held: the held-back batches.

    peaks: float32 [batches, tensors], the largest |x| of each calibration batch, tensors in the order of `tensors`.
    """

    halves: tuple[Observed, Observed]
    held: Observed
    tensors: tuple[str, ...]
    peaks: np.ndarray
    observed: Observed = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "observed", self.halves[0].merged(self.halves[1]))

    @property
    def histograms(self) -> Mapping[str, Histogram]:
        """Of all calibration batches."""
        return self.observed.histograms

    @property
    def batches(self) -> int:
        return self.observed.batches


def calibrate(
    graph: Graph,
    samples: Samples,
    tensors: Iterable[str],
    config: BuildConfig,
    progress: Progress | None = None,
    *,
    held: Samples | None = None,
    ranges: Sequence[Mapping[str, Range]] = (),
    work: Path | None = None,
    resume: bool = True,
) -> Calibration:
    """Histograms of `tensors` (names of values of `graph`, the float graph before quantization) over all samples.

    held: batches observed apart, which thresholds are judged by; by default there are none.
    ranges: of the symbols that are left in the graph, in every profile.
    work: folder of the state file; without it nothing is kept.
    resume: use what an earlier run left there.
    progress: called as ("calibrate", batches done, batches).

    DataError names a tensor that is not finite and the batch; BuildError if the state file cannot be written.
    """
    names = in_order(graph, tensors)
    parts = (samples,) if held is None else (samples, held)
    total = sum(map(len, parts))
    report: Progress = progress or (lambda stage, done, total: None)
    state = None if work is None else StateFile(work / f"calibration-{_key(graph, names, parts)}.npz")
    done = state.read(names) if state is not None and resume else None
    done = done or _Done.nothing(names)
    if done.batches == total or not names:
        return done.calibration()
    engine = Engine(build_plan(instrumented(graph, names), _plain(config, ranges), progress=progress).plan)
    outputs = [o.name for o in engine.outputs]
    saved = time.monotonic()
    called = [samples.names for samples in parts]
    report("calibrate", done.batches, total)
    try:
        for part, number in _left(parts, done.batches):
            batch = parts[part][number]
            vectors = engine.run({s.name: batch[s.name] for s in engine.inputs})
            found = vectors_of(dict(zip(outputs, vectors, strict=True)), called[part][number])
            done.add(2 if part else number % 2, [found[n] for n in names])
            report("calibrate", done.batches, total)
            if state is not None and time.monotonic() - saved > _SAVE_EVERY:
                state.write(done)
                saved = time.monotonic()
    finally:
        if state is not None:
            state.write(done)
            state.prune()
    return done.calibration()


def _left(parts: Sequence[Samples], done: int) -> Iterable[tuple[int, int]]:
    """(part, batch in it) of the batches after the first `done`."""
    every = [(part, number) for part, samples in enumerate(parts) for number in range(len(samples))]
    return every[done:]


def _plain(config: BuildConfig, ranges: Sequence[Mapping[str, Range]]) -> BuildConfig:
    """The configuration for a graph whose sizes are resolved."""
    profiles = tuple(Profile(tuple(sorted(r.items()))) for r in ranges if r)
    # a rule that is disabled may match no more in this graph, which would be an error
    known = {p.name for p in PIPELINE} | {t.name for t in target_of(config).tactics()}
    return replace(
        config,
        profiles=profiles,
        batches=(),
        shapes={},
        portable_graph=False,
        stop_after="",
        disable=tuple(name for name in config.disable if name in known),
    )


def _key(graph: Graph, names: Sequence[str], parts: Sequence[Samples]) -> str:
    text = "\n".join([str(_FORMAT), graph.hash(), *names, *(p.digest for p in parts)])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass
class _Done:
    """Histograms of the batches seen so far, in three parts: even calibration batches, odd ones, held-back ones.

    seen: by part and tensor. batches: by part. peaks: largest |x| of every tensor, by calibration batch.
    """

    names: list[str]
    seen: list[list[Accumulator]]
    counts: list[int]
    peaks: list[np.ndarray]

    @staticmethod
    def nothing(names: Sequence[str]) -> _Done:
        return _Done(list(names), [[Accumulator() for _ in names] for _ in range(3)], [0, 0, 0], [])

    @property
    def batches(self) -> int:
        return sum(self.counts)

    def add(self, part: int, vectors: Sequence[np.ndarray]) -> None:
        """What an instrumented graph gave of a batch, in the order of the tensors."""
        peaks = [a.add(v) for a, v in zip(self.seen[part], vectors, strict=True)]
        if part < 2:
            self.peaks.append(np.array(peaks, np.float32))
        self.counts[part] += 1

    def calibration(self) -> Calibration:
        peaks = np.array(self.peaks, np.float32).reshape(len(self.peaks), len(self.names))
        found = [
            Observed(dict(zip(self.names, (a.histogram() for a in row), strict=True)), n)
            for row, n in zip(self.seen, self.counts, strict=True)
        ]
        return Calibration((found[0], found[1]), found[2], tuple(self.names), peaks)


@dataclass(frozen=True)
class StateFile:
    """What a calibration has done so far, in an .npz that is replaced as a whole."""

    path: Path

    def write(self, done: _Done) -> None:
        """BuildError says why it cannot be written."""
        rows = [a for part in done.seen for a in part]
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as f:
                np.savez_compressed(
                    f,
                    batches=np.array(done.counts, np.int64),
                    counts=np.array([a.counts for a in rows], np.int64),
                    fields=np.array([(a.exponent, a.zeros) for a in rows], np.int64),
                    extremes=np.array([(a.low, a.high) for a in rows], np.float64),
                    peaks=np.array(done.peaks, np.float32),
                )
            os.replace(temporary, self.path)
        except OSError as e:
            raise BuildError(f"the state of the calibration cannot be kept in {self.path.parent}: {e.strerror}") from e
        finally:
            if self.path.parent.is_dir():
                temporary.unlink(missing_ok=True)

    def read(self, names: Sequence[str]) -> _Done | None:
        """None if there is nothing, or what is there is damaged: then the calibration begins anew."""
        try:
            with np.load(self.path, allow_pickle=False) as z:
                batches, counts, fields, extremes = z["batches"], z["counts"], z["fields"], z["extremes"]
                peaks = list(z["peaks"].reshape(-1, len(names)))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        rows = [
            Accumulator(int(e), c, int(z), float(low), float(high))
            for c, (e, z), (low, high) in zip(counts, fields, extremes, strict=True)
        ]
        n = len(names)
        return _Done(list(names), [rows[i * n : (i + 1) * n] for i in range(3)], [int(b) for b in batches], peaks)

    def prune(self) -> None:
        """Deletes the oldest state files of the folder."""
        ages = {}
        for path in self.path.parent.glob("calibration-*.npz"):
            with suppress(FileNotFoundError):  # another process prunes too
                ages[path] = path.stat().st_mtime_ns
        for path in sorted(ages, key=lambda p: ages[p])[:-_KEPT]:
            path.unlink(missing_ok=True)
