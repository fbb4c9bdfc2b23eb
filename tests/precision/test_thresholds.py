"""Thresholds from calibration, from caches and from both; calibrators as classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import temper
from temper.builder import build_plan
from temper.config import BuildConfig
from temper.errors import DataError
from temper.ir.graph import Graph
from temper.precision.build import Made, build_int8
from temper.precision.calibration import Calibration, calibrate
from temper.precision.calibrators import algorithm_of, read_cache, write_cache
from temper.precision.data import samples_of, split
from temper.precision.request import Request
from temper.precision.thresholds import known_names, read_cache_file, resolve, rows
from temper.quantize.cache import CalibrationCache, from_text, to_text
from temper.quantize.source_names import to_cache
from tests.conftest import small_model
from tests.precision.conftest import float_form, pictures

Calibrated = tuple[Graph, list[str], Calibration]


@pytest.fixture(scope="module")
def calibrated(timing_cache: Path) -> Calibrated:
    graph, tensors = float_form()
    samples, held = split(samples_of(pictures(8), {v.name: v.type for v in graph.inputs}))
    config = BuildConfig(threads=2, effort=0, cache=timing_cache)
    return graph, tensors, calibrate(graph, samples, tensors, config, held=held)


def test_calibrated(calibrated: Calibrated) -> None:
    graph, tensors, seen = calibrated
    found = resolve(graph, tensors, "minmax", seen)
    assert found.amax == {t: seen.histograms[t].amax for t in tensors}
    assert {c.calibrator for c in resolve(graph, tensors, "auto", seen).chosen.values()} <= {
        "minmax",
        "mse",
        "percentile:99.99",
        "percentile:99.999",
        "percentile:99.9999",
    }


def test_a_cache_gives_back_what_was_written(calibrated: Calibrated) -> None:
    graph, tensors, seen = calibrated
    found = resolve(graph, tensors, "auto", seen)
    cache = from_text(to_text(to_cache(graph, found.amax)))
    again = resolve(graph, tensors, "auto", None, cache, "a.cache", known_names(small_model(), graph))
    assert again.amax == pytest.approx(found.amax, rel=1e-6)
    assert again.remarks == ()
    assert {c.calibrator for c in again.chosen.values()} == {"cache"}


def test_a_cache_that_lacks_tensors(calibrated: Calibrated) -> None:
    graph, tensors, seen = calibrated
    full = dict(to_cache(graph, resolve(graph, tensors, "auto", seen).amax).amax)
    less = CalibrationCache({k: v for k, v in full.items() if k != "relu0a"} | {"of another model": 1.0})
    known = known_names(small_model(), graph)
    with pytest.raises(
        DataError, match=r"a.cache has no entry for 1 of 5 tensors: relu0a; .*of another model.*--calib"
    ):
        resolve(graph, tensors, "auto", None, less, "a.cache", known)
    found = resolve(graph, tensors, "minmax", seen, less, "a.cache", known)
    name = next(t for t in tensors if t.startswith("relu0a"))
    assert found.chosen[name].calibrator == "minmax"
    assert found.amax[name] == seen.histograms[name].amax
    assert "a.cache has no entry for 1 of 5 tensors: relu0a" in found.remarks[0]
    assert "of another model" in found.remarks[1]


def test_a_cache_that_calls_a_tensor_zero(calibrated: Calibrated) -> None:
    graph, tensors, seen = calibrated
    full = dict(to_cache(graph, resolve(graph, tensors, "auto", seen).amax).amax)
    known = known_names(small_model(), graph)
    found = resolve(graph, tensors, "auto", None, CalibrationCache({**full, "relu0a": 0.0}), "a.cache", known)
    assert found.remarks == ("a.cache says of relu0a that it is always zero: whatever it holds is taken for that",)


def test_a_cache_of_another_model_is_refused_even_with_data(calibrated: Calibrated) -> None:
    graph, tensors, seen = calibrated
    with pytest.raises(DataError, match="of another model"):
        resolve(graph, tensors, "auto", seen, CalibrationCache({"x": 1.0}), "a.cache")


def test_cache_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_cache_file(tmp_path / "none.cache")
    (tmp_path / "binary.cache").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="it is not text"):
        read_cache_file(tmp_path / "binary.cache")


def test_rows_of_the_record(calibrated: Calibrated) -> None:
    graph, tensors, seen = calibrated
    found = rows(graph, resolve(graph, tensors, "auto", seen), seen)
    by_name = {r.name: r for r in found}
    assert set(by_name) >= {"image", "relu0a", "relu0b"}
    image = by_name["image"]
    assert image.signed and not by_name["relu0a"].signed
    assert sum(image.counts) == pytest.approx(seen.histograms["image"].total)
    assert (image.low, image.high) == (seen.histograms["image"].low, seen.histograms["image"].high)
    assert image.alternatives["minmax"] == seen.histograms["image"].amax
    assert set(image.errors) == set(image.alternatives)


class Own(temper.PercentileCalibrator):
    """A user's calibrator over the test's data, with a cache in memory."""

    quantile = 0.999

    def __init__(self, count: int = 8) -> None:
        self.data = list(pictures(count))
        self.at = 0
        self.kept = b""

    def get_batch_size(self) -> int:
        return 2

    def get_batch(self, names: Sequence[str]) -> list[np.ndarray] | None:
        assert list(names) == ["image"]
        self.at += 2
        batch = self.data[self.at - 2 : self.at]
        return [np.stack(batch)] if batch else None

    def read_calibration_cache(self) -> bytes | None:
        return self.kept or None

    def write_calibration_cache(self, cache: bytes) -> None:
        self.kept = cache


def test_algorithms_of_calibrators() -> None:
    names = ("AutoCalibrator", "EntropyCalibrator", "MinMaxCalibrator", "MSECalibrator", "PercentileCalibrator")
    assert [algorithm_of(getattr(temper, n)()) for n in names] == [
        "auto",
        "entropy",
        "minmax",
        "mse",
        "percentile:99.99",
    ]
    assert algorithm_of(Own()) == "percentile:99.9"
    assert algorithm_of("images/") == "auto" == algorithm_of(np.zeros(3))


def test_caches_of_calibrators() -> None:
    own = Own()
    assert read_cache(own) is None
    write_cache(own, CalibrationCache({"x": 127.0}))
    assert own.kept == b"TRT-8600-EntropyCalibration2\nx: 3f800000\n"
    found = read_cache(own)
    assert found is not None and found.amax == {"x": 127.0}
    own.kept = b"nonsense"
    with pytest.raises(DataError, match="Own.read_calibration_cache: the first line"):
        read_cache(own)
    own.kept = b"\xff\xff"
    with pytest.raises(DataError, match="UnicodeDecodeError"):
        read_cache(own)
    write_cache([np.zeros(3)], CalibrationCache({}))  # other data keeps nothing
    assert read_cache([np.zeros(3)]) is None


def test_a_calibrator_without_get_batch() -> None:
    with pytest.raises(DataError, match="NotImplementedError: EntropyCalibrator.get_batch"):
        samples_of(temper.EntropyCalibrator(), {v.name: v.type for v in float_form()[0].inputs})


def test_a_build_uses_and_keeps_the_calibrators_cache(quick: BuildConfig) -> None:
    own = Own()
    request = Request(calibration=own, pure_int8=True)
    made = build_int8(small_model(), quick, request)
    assert own.kept.startswith(b"TRT-8600-LegacyCalibration\nimage: ")
    by_name = {t.name: t for t in made.outcome.tensors}
    assert by_name["relu0a"].calibrator == "percentile:99.9"
    assert made.outcome.audit is not None and made.outcome.audit.samples == 8
    assert any("8 samples only" in w for w in made.outcome.warnings)
    cache = dict(from_text(own.kept.decode()).amax)
    changed = CalibrationCache({**cache, "relu0a": 2 * cache["relu0a"]})
    own.kept, own.at = to_text(changed).encode(), 0
    again = build_int8(small_model(), quick, request)
    assert {t.name: t.amax for t in again.outcome.tensors}["relu0a"] == pytest.approx(2 * cache["relu0a"], rel=1e-6)


def test_a_build_from_a_cache_alone(quick: BuildConfig, tmp_path: Path, calibrated: Calibrated) -> None:
    graph, tensors, seen = calibrated
    path = tmp_path / "model.cache"
    path.write_text(to_text(to_cache(graph, resolve(graph, tensors, "auto", seen).amax)))
    made = build_int8(small_model(), quick, Request(cache=path))
    assert {t.calibrator for t in made.outcome.tensors} == {"cache"}
    path.write_text("TRT-8600-EntropyCalibration2\nimage: 3f800000\n")
    with pytest.raises(DataError, match="model.cache has no entry for"):
        build_int8(small_model(), quick, Request(cache=path))


@pytest.fixture
def narrow(tmp_path: Path, calibrated: Calibrated) -> Path:
    """A cache that clips most of one tensor away."""
    graph, tensors, seen = calibrated
    amax = resolve(graph, tensors, "auto", seen).amax
    cache = to_cache(graph, amax)
    path = tmp_path / "narrow.cache"
    path.write_text(to_text(CalibrationCache({**cache.amax, "relu0a": 0.05 * cache.amax["relu0a"]})))
    return path


def _int8(made: Made) -> int:
    return sum(s.precision == "int8" for s in made.outcome.sites)


def _sites(made: Made) -> int:
    return len(made.outcome.sites)


def _likeness(quick: BuildConfig, contexts: bool) -> Callable[[temper.Engine], float]:
    """A score: 1 less what the outputs are off by, of inputs run by the engine itself or in a context."""
    inputs = pictures(6)
    exact = temper.Engine(build_plan(small_model(), quick).plan)
    want = np.concatenate([np.asarray(exact(x[None])) for x in inputs])

    def score(engine: temper.Engine) -> float:
        run = engine.context() if contexts else engine
        got = np.concatenate([np.asarray(run(x[None])) for x in inputs])
        return 1 - float(np.square(got - want).mean() / np.square(want).mean())

    return score


def test_a_cache_and_a_score_search_by_what_the_score_runs(quick: BuildConfig, narrow: Path) -> None:
    score = _likeness(quick, contexts=False)
    made = build_int8(small_model(), quick, Request(cache=narrow, evaluate=score, max_drop=0.003))
    assert made.outcome.met and 0 < _int8(made) < _sites(made)
    assert score(temper.Engine(made.build.plan)) >= 0.997
    assert any("ranked by 6 inputs that " in w for w in made.outcome.warnings)
    assert {t.calibrator for t in made.outcome.tensors} == {"cache"}


def test_a_score_that_cannot_be_listened_to_leaves_everything_in_float(quick: BuildConfig, narrow: Path) -> None:
    score = _likeness(quick, contexts=True)
    made = build_int8(small_model(), quick, Request(cache=narrow, evaluate=score, max_drop=0.003))
    assert made.outcome.met and made.recipe is None
    assert any("give inputs beside the calibration cache (--calib)" in w for w in made.outcome.warnings)


def test_a_cache_alone_says_what_is_not_known(quick: BuildConfig, narrow: Path) -> None:
    made = build_int8(small_model(), quick, Request(cache=narrow))
    assert _int8(made) == _sites(made)
    assert any("Give inputs too (--calib), or a score (--eval)" in w for w in made.outcome.warnings)
    assert build_int8(small_model(), quick, Request(cache=narrow, pure_int8=True)).outcome.warnings == ()


def test_random_inputs_beside_a_cache_judge_but_change_no_threshold(quick: BuildConfig, narrow: Path) -> None:
    made = build_int8(small_model(), quick, Request(cache=narrow, calibration="random:12"))
    assert made.outcome.data is not None and made.outcome.data.synthetic
    assert any("the cache's, but layers are judged on random numbers" in w for w in made.outcome.warnings)
    assert {t.calibrator for t in made.outcome.tensors} == {"cache"}
    assert _int8(made) < _sites(made)
