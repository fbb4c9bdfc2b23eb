"""The ONNX project's own backend tests: what passed when benchmarks/results/onnx_backend.json was recorded passes
still, what was compiled is compiled still."""

from __future__ import annotations

import json
from functools import cache

import onnx
import pytest

from benchmarks.onnx_suite import RESULT, run_share

SHARES = 24
_RANK = {"failed": 0, "host": 1, "compiled": 2}


@cache
def _recorded() -> dict[tuple[str, str], str]:
    report = json.loads(RESULT.read_text())
    if report["onnx"] != onnx.__version__:
        pytest.skip(f"results are those of onnx {report['onnx']}, this is {onnx.__version__}")
    return {(t["category"], t["name"]): t["status"] for t in report["tests"]}


@pytest.mark.parametrize("share", range(SHARES))
def test_nothing_got_worse(share: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    recorded = _recorded()
    outcomes = run_share(share, SHARES, "", str(tmp_path_factory.mktemp("suite") / "timing.sqlite"))
    assert outcomes
    worse = [
        f"{o.name}: {recorded[o.category, o.name]} -> {o.status} ({o.reason or '; '.join(o.host)})"
        for o in outcomes
        if _RANK[o.status] < _RANK[recorded[o.category, o.name]]
    ]
    assert not worse, "\n".join(worse)
