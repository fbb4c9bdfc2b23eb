"""The audit: every finding on data made to show it, and none on good data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from temper.ir.graph import Graph
from temper.precision.audit import audit, share_beyond
from temper.precision.calibration import Calibration
from temper.precision.data import Samples, samples_of, split
from temper.precision.outcome import Audit
from temper.precision.thresholds import resolve
from temper.quantize.calibrate import Observed, nothing
from temper.quantize.histogram import observe
from tests.precision.conftest import float_form

GRAPH, _ = float_form()


def good(count: int = 40) -> np.ndarray:
    return np.random.default_rng(2).uniform(-1, 1, (count, 3, 12, 12)).astype(np.float32)


def inputs(graph: Graph) -> dict[str, object]:
    return {v.name: v.type for v in graph.inputs}


def of(x: np.ndarray, calibrator: str = "minmax", **changes: object) -> Audit:
    """The audit of a set of pictures, with the input as the only tensor."""
    samples: Samples = replace(samples_of(x, inputs(GRAPH)), **changes)  # type: ignore[arg-type]
    part, held = split(samples)
    seen = [nothing(["image"]) for _ in range(3)]
    for which, batches in enumerate((part, held)):
        for i, batch in enumerate(batches):
            slot = 2 if which else i % 2
            seen[slot] = seen[slot].merged(Observed({"image": observe(batch["image"])}, 1))
    peaks = np.array([[np.abs(b["image"]).max()] for b in part], np.float32)
    found = Calibration((seen[0], seen[1]), seen[2], ("image",), peaks)
    return audit(samples, part, GRAPH, found, resolve(GRAPH, ["image"], calibrator, found))


def kinds(found: Audit) -> dict[str, str]:
    return {f.kind: f.severity for f in found.findings}


def test_good_data_has_no_findings() -> None:
    found = of(good())
    assert (found.samples, found.duplicates, found.constant, found.findings) == (40, 0, 0, ())
    tensor = found.tensors["image"]
    assert tensor.split_half is not None and tensor.split_half < 0.01
    assert tensor.saturation is not None and tensor.saturation < 0.001


def test_few_samples() -> None:
    found = of(good(6))
    assert kinds(found) == {"few": "warning"}
    assert "6 samples only" in found.findings[0].message


def test_one_batch_has_no_halves() -> None:
    found = of(good(1))
    assert found.tensors["image"].split_half is None
    assert found.tensors["image"].saturation == 0


def test_repeated_samples_are_counted_and_named() -> None:
    x = good()
    x[7] = x[1]
    found = of(x)
    assert (found.duplicates, kinds(found)) == (1, {"duplicates": "note"})
    assert "data[1], the calibration data[7]" in found.findings[0].message
    x[8:12] = x[1]
    assert (of(x).duplicates, kinds(of(x))) == (5, {"duplicates": "warning"})


def test_nearly_constant_samples() -> None:
    x = good()
    x[5] = 0.3
    x[6] = 0.3 + 1e-4 * x[6]
    found = of(x)
    assert (found.constant, kinds(found)) == (2, {"constant": "note"})
    assert "data[5], the calibration data[6]" in found.findings[0].message


def test_halves_that_disagree_name_the_tensor() -> None:
    x = good()
    x[[1, 4, 9, 12]] *= 3  # of odd number once every fourth is held back
    found = of(x)
    (finding,) = [f for f in found.findings if f.kind == "ranges"]
    assert finding.severity == "warning" and finding.tensors == ("image",)
    assert "too small for 1 of 1 tensors" in finding.message and "image (67%)" in finding.message


def test_held_back_values_beyond_the_threshold() -> None:
    x = good()
    x[3::4] *= 2
    found = of(x)
    assert kinds(found) == {"saturation": "warning"}
    (finding,) = found.findings
    assert "too narrow for 1 of 1 tensors" in finding.message
    assert found.tensors["image"].saturation == pytest.approx(0.5, abs=0.02)


def test_clipping_that_calibration_data_has_too_is_no_finding() -> None:
    x = np.random.default_rng(0).standard_normal((40, 3, 12, 12)).astype(np.float32)
    found = of(x, "percentile:99")
    assert found.tensors["image"].saturation == pytest.approx(0.01, abs=0.005)
    assert "saturation" not in kinds(found)


def test_a_sample_that_stands_out() -> None:
    x = good()
    x[8, 0, 0, 0] = 50
    found = of(x, "percentile:99.9")
    assert kinds(found) == {"outlier": "note"}
    assert "data[8] alone" in found.findings[0].message and found.findings[0].tensors == ("image",)


def test_made_up_and_unusable_samples() -> None:
    found = of(good(), synthetic=True, skipped={"a.png": "it is empty"})
    assert kinds(found) == {"synthetic": "warning", "skipped": "warning"}
    assert found.skipped == {"a.png": "it is empty"}


def test_share_beyond() -> None:
    h = observe(np.linspace(0, 1, 10_001, dtype=np.float32))
    assert share_beyond(h, 0.25) == pytest.approx(0.75, abs=1e-3)
    assert share_beyond(h, 1.0) == 0 == share_beyond(h, 5.0)
    assert share_beyond(h, 0.0) == pytest.approx(1.0, abs=1e-3)
