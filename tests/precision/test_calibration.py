"""Calibration on a compiled engine: against numpy, whatever the order, interrupted and resumed, and on bad values."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from temper.config import BuildConfig, Profile
from temper.errors import BuildError, DataError
from temper.ir.types import TensorType
from temper.precision import calibration as module
from temper.precision.calibration import Calibration, calibrate
from temper.precision.data import Samples, samples_of, split
from temper.precision.subject import Subject
from temper.quantize.histogram import Histogram, observe
from tests.conftest import small_model
from tests.precision.conftest import float_form, pictures


def small_samples(x: np.ndarray, batch: int = 1) -> Samples:
    graph, _ = float_form(batch)
    return samples_of(x, {v.name: v.type for v in graph.inputs})


def same(a: Histogram, b: Histogram) -> bool:
    fields = lambda h: (h.exponent, h.zeros, h.low, h.high)  # noqa: E731
    return np.array_equal(a.counts, b.counts) and fields(a) == fields(b)


def all_same(a: Calibration, b: Calibration) -> bool:
    return all(same(h, b.histograms[t]) for t, h in a.histograms.items())


def test_input_histogram_is_numpys(quick: BuildConfig) -> None:
    graph, tensors = float_form()
    x = pictures(7)
    found = calibrate(graph, small_samples(x), tensors, quick)
    assert set(found.histograms) == set(tensors)
    assert found.batches == 7
    assert same(found.histograms["image"], observe(x))
    assert found.peaks.shape == (7, len(tensors))
    at = found.tensors.index("image")
    assert found.peaks[:, at].tolist() == np.abs(x).reshape(7, -1).max(axis=1).tolist()


def test_order_does_not_matter(quick: BuildConfig) -> None:
    graph, tensors = float_form()
    x = pictures(8)
    assert all_same(
        calibrate(graph, small_samples(x), tensors, quick), calibrate(graph, small_samples(x[::-1]), tensors, quick)
    )


def test_batch_size_does_not_matter(quick: BuildConfig) -> None:
    """Other kernels may round otherwise, which moves few values to the next bin; nothing else may differ."""
    x = pictures(8)
    found = []
    for batch in (1, 4):
        graph, tensors = float_form(batch)
        found.append(calibrate(graph, small_samples(x, batch), tensors, quick).histograms)
    assert same(found[0]["image"], found[1]["image"])
    for a, b in zip(found[0].values(), found[1].values(), strict=True):
        assert a.total == b.total and a.exponent == b.exponent
        assert a.amax == pytest.approx(b.amax, rel=1e-5)
        assert np.abs(np.cumsum(a.counts) - np.cumsum(b.counts)).max() <= 0.01 * a.total


def test_halves_and_held_back_batches(quick: BuildConfig) -> None:
    graph, tensors = float_form()
    x = pictures(8)
    samples, held = split(small_samples(x))
    found = calibrate(graph, samples, tensors, quick, held=held)
    assert [h.batches for h in found.halves] == [3, 3] and found.held.batches == 2
    assert same(found.halves[0].histograms["image"], observe(x[[0, 2, 5]]))
    assert same(found.held.histograms["image"], observe(x[[3, 7]]))


@dataclass(frozen=True)
class Interrupted:
    """A source that is interrupted when a batch is read."""

    source: object
    at: int
    loaded: list[int] = field(default_factory=list)

    def load(self, index: int) -> dict[str, np.ndarray]:
        if index == self.at:
            raise KeyboardInterrupt
        self.loaded.append(index)
        return self.source.load(index)  # type: ignore[attr-defined]


def interrupted(samples: Samples, at: int) -> Samples:
    return Samples(Interrupted(samples.source, at), samples.prints, indices=samples.indices)  # type: ignore[arg-type]


def test_interrupted_and_resumed(quick: BuildConfig, tmp_path: Path) -> None:
    graph, tensors = float_form()
    samples = small_samples(pictures(8))
    whole = calibrate(graph, samples, tensors, quick)
    with pytest.raises(KeyboardInterrupt):
        calibrate(graph, interrupted(samples, 5), tensors, quick, work=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    rest = interrupted(samples, -1)
    seen: list[tuple[str, int, int]] = []
    found = calibrate(graph, rest, tensors, quick, lambda *a: seen.append(a), work=tmp_path)
    assert rest.source.loaded == [5, 6, 7]  # type: ignore[attr-defined]
    assert [a for a in seen if a[0] == "calibrate"][0] == ("calibrate", 5, 8)
    assert all_same(found, whole) and np.array_equal(found.peaks, whole.peaks)
    again = interrupted(samples, -1)
    assert all_same(calibrate(graph, again, tensors, quick, work=tmp_path), whole)
    assert again.source.loaded == []  # type: ignore[attr-defined]
    anew = interrupted(samples, -1)
    calibrate(graph, anew, tensors, quick, work=tmp_path, resume=False)
    assert len(anew.source.loaded) == 8  # type: ignore[attr-defined]


def test_state_of_other_data_or_damaged_is_not_used(quick: BuildConfig, tmp_path: Path) -> None:
    graph, tensors = float_form()
    calibrate(graph, small_samples(pictures(3)), tensors, quick, work=tmp_path)
    (state,) = tmp_path.iterdir()
    other = calibrate(graph, small_samples(pictures(3, seed=1)), tensors, quick, work=tmp_path)
    assert other.batches == 3 and len(list(tmp_path.iterdir())) == 2
    fewer = calibrate(graph, small_samples(pictures(3)), tensors[:2], quick, work=tmp_path)
    assert set(fewer.histograms) == set(tensors[:2])
    state.write_bytes(state.read_bytes()[:100])
    assert calibrate(graph, small_samples(pictures(3)), tensors, quick, work=tmp_path).batches == 3


def test_old_states_are_deleted(quick: BuildConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT", 2)
    graph, tensors = float_form()
    for seed in range(3):
        calibrate(graph, small_samples(pictures(1, seed=seed)), tensors, quick, work=tmp_path)
        if seed == 0:
            (first,) = tmp_path.iterdir()
            os.utime(first, (1, 1))
    assert len(list(tmp_path.iterdir())) == 2 and not first.exists()


def test_state_is_written_while_running(quick: BuildConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill leaves behind is at most some seconds old."""
    monkeypatch.setattr(module, "_SAVE_EVERY", 0.0)
    graph, tensors = float_form()
    files: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "calibrate":
            files.append(len(list(tmp_path.iterdir())))

    calibrate(graph, small_samples(pictures(3)), tensors, quick, progress, work=tmp_path)
    assert files == [0, 0, 1, 1]


def test_work_folder_that_cannot_be_written(quick: BuildConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    graph, tensors = float_form()
    with pytest.raises(BuildError, match="cannot be kept"):
        calibrate(graph, small_samples(pictures(1)), tensors, quick, work=tmp_path / "file")


def test_activations_that_are_not_finite(quick: BuildConfig) -> None:
    graph, tensors = float_form()
    x = pictures(3)
    x[1] *= 3e38 / np.abs(x[1]).max()
    x[1, :, :3] = 3e38
    with pytest.raises(DataError, match=r"\[1\]: tensor 'relu0a.*' has \d+ values that are NaN or infinite"):
        calibrate(graph, small_samples(x), tensors, quick)


def test_batches_are_read_one_by_one(quick: BuildConfig) -> None:
    graph, tensors = float_form()
    samples = small_samples(pictures(4))
    order: list[str] = []

    @dataclass(frozen=True)
    class Watched:
        def load(self, index: int) -> dict[str, np.ndarray]:
            order.append(f"load {index}")
            return samples.source.load(index)

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "calibrate":
            order.append(f"done {done}")

    calibrate(graph, Samples(Watched(), samples.prints, indices=samples.indices), tensors, quick, progress)
    assert order[:5] == ["done 0", "load 0", "done 1", "load 1", "done 2"]


def test_sizes_that_vary(timing_cache: Path) -> None:
    """One engine for batches of 1 to 4: what it observes does not depend on how samples are divided into batches."""
    config = BuildConfig(threads=2, effort=0, cache=timing_cache, profiles=(Profile.of(N=(1, 2, 4)),))
    subject = Subject.of(small_model("N"), config)
    inputs = {v.name: v.type for v in subject.graph.inputs}
    x = pictures(8)
    found = []
    for cuts in ((2, 4, 6), (1, 4, 5)):
        samples = samples_of(np.split(x, cuts), inputs, subject.ranges)
        assert [b["image"].shape[0] for b in samples] == np.diff((0, *cuts, 8)).tolist()
        found.append(calibrate(subject.graph, samples, subject.tensors, config, ranges=subject.ranges))
    assert same(found[0].histograms["image"], observe(x))
    assert all_same(*found)


def test_sizes_that_were_not_stated() -> None:
    subject = Subject.of(small_model("N"), BuildConfig(threads=2, effort=0))
    assert "the model's N are open" in subject.note and "--profile N=1:8:16" in subject.note
    inputs = {"image": TensorType("float32", (1, 3, 12, 12))}
    with pytest.raises(DataError, match="2 of 2 samples.*the model's N are open"):
        samples_of([np.zeros((1, 3, 9, 9), np.float32)] * 2, inputs, note=subject.note)
    assert Subject.of(small_model(1), BuildConfig(threads=2, effort=0)).note == ""
