"""Candidates of earlier builds: what is found again, what is generated, and what makes them another build's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cuda.conv import GemmTiles
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.sources import cuda_tactics
from temper.tune import remembered
from temper.tune.remembered import CandidateList, Generated
from temper.tune.select import Tuner
from temper.tune.timing_cache import TimingCache
from tests.tune.test_select import Fake, task


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[TimingCache]:
    made = TimingCache(tmp_path / "c.sqlite")
    yield made
    made.close()


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Entries of the kernels that products' tactic generates."""
    made: list[str] = []
    plain = GemmTiles.generate

    def generate(self: GemmTiles, w: Workload, params: Params, entry: str) -> TritonKernel:
        made.append(entry)
        return plain(self, w, params, entry)

    monkeypatch.setattr(GemmTiles, "generate", generate)
    return made


def tuner(cache: TimingCache, **more: Any) -> Tuner:
    return Tuner(cuda_tactics(), Fake(), more.pop("machine", "here"), cache, **more)


def test_text_and_back() -> None:
    found = CandidateList(
        (Generated("cuda.gemm", (("bm", 64), ("bn", 32)), "ab", True, True),), (("cuda.conv", "declined: no"),)
    )
    assert CandidateList.from_text(found.to_text()) == found


def test_only_the_winner_is_generated_again(cache: TimingCache, texts: list[str]) -> None:
    first = tuner(cache).choose([task(64)])
    made = len(texts)
    assert made > 2
    device = Fake()
    again = Tuner(cuda_tactics(), device, "here", cache).choose([task(64)])
    assert len(texts) == made + 1 and not device.events
    (key,) = first
    assert again[key].candidate.label == first[key].candidate.label and again[key].code == first[key].code
    assert again[key].candidate.kernel == first[key].candidate.kernel
    assert again[key].candidate.code_key == first[key].candidate.code_key
    assert again[key].trials == first[key].trials


def test_what_candidates_depend_on_is_asked_anew(cache: TimingCache, texts: list[str]) -> None:
    tuner(cache).choose([task(64)])

    def generated(**more: Any) -> int:
        before = len(texts)
        tuner(cache, **more).choose([task(64)])
        return len(texts) - before

    assert generated() == 1
    assert generated(effort=3) > 2 and generated(effort=3) == 1
    assert generated(machine="there") > 2
    few = Tuner([t for t in cuda_tactics() if t.name != "cuda.gemm_tma"], Fake(), "here", cache)
    before = len(texts)
    few.choose([task(64)])
    assert len(texts) - before > 2


def test_another_version_remembers_nothing(
    cache: TimingCache, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tuner(cache).choose([task(64)])
    before = len(texts)
    monkeypatch.setattr(remembered, "source_digest", lambda: "another")
    tuner(cache).choose([task(64)])
    assert len(texts) - before > 2


def test_without_sources_nothing_is_remembered(
    cache: TimingCache, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "source_digest", lambda: "")
    tuner(cache).choose([task(64)])
    before = len(texts)
    tuner(cache).choose([task(64)])
    assert len(texts) - before > 2


def test_a_tactic_that_is_not_as_its_source_is_found_out(
    cache: TimingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The winner's text is compared with what is remembered; where it differs, all are made again."""
    first = tuner(cache).choose([task(64)])
    plain = GemmTiles.generate

    def other(self: GemmTiles, w: Workload, params: Params, entry: str) -> TritonKernel:
        return plain(self, w, params, entry + "x")

    monkeypatch.setattr(GemmTiles, "generate", other)
    device = Fake()
    again = Tuner(cuda_tactics(), device, "here", cache).choose([task(64)])
    (key,) = first
    assert device.events and again[key].candidate.code_key != first[key].candidate.code_key
    assert again[key].candidate.genuine and again[key].candidate.kernel.entries[0].endswith("x")


def test_digest_of_the_sources() -> None:
    assert len(remembered.source_digest()) == 64


def _kernels(tuned: Mapping[str, Any]) -> list[Kernel]:
    return [c.candidate.kernel for c in tuned.values()]


def test_profiles_share_what_is_remembered(cache: TimingCache, texts: list[str]) -> None:
    tuner(cache).choose([task(64)])
    again = tuner(cache)
    before = len(texts)
    assert _kernels(again.choose([task(64)]))[0] is _kernels(again.choose([task(64)]))[0]
    assert len(texts) - before == 1
