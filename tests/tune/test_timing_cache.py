"""The timing cache: keys, persistence, sharing between processes, and files that cannot be used."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from temper.errors import BuildError
from temper.tune.timing_cache import Record, TimingCache, digest


def test_digest_separates_its_parts() -> None:
    assert digest("ab", "c") != digest("a", "bc") and digest("a") == digest("a")


def test_times_and_code_survive_reopening(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cache.sqlite"
    first = TimingCache(path)
    first.put_time("t", Record(1.5e-6))
    first.put_time("bad", Record(None, "wrong result"))
    first.put_code("c", b"\x7fELF\0code")
    first.close()
    again = TimingCache(path)
    assert (
        again.time("t") == Record(1.5e-6)
        and again.time("bad") == Record(None, "wrong result")
        and again.time("other") is None
    )
    assert again.code("c") == b"\x7fELF\0code" and again.code("other") is None
    assert (again.hits, again.misses) == (2, 1)


def _write(path: Path, name: str) -> None:
    cache = TimingCache(path)
    for i in range(50):
        cache.put_time(f"{name}{i}", Record(float(i)))
    cache.close()


def test_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    TimingCache(path).close()
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(path, n)) for n in "ab"]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert [w.exitcode for w in workers] == [0, 0]
    cache = TimingCache(path)
    assert all(cache.time(f"{n}{i}") == Record(float(i)) for n in "ab" for i in range(50))


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(BuildError, match=r"cache\.sqlite.*TEMPER_CACHE"):
        TimingCache(path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="TEMPER_CACHE"):
        TimingCache(tmp_path / "file" / "cache.sqlite")


def test_reasons_that_pass_are_not_kept(tmp_path: Path) -> None:
    cache = TimingCache(tmp_path / "t.sqlite")
    cache.put_time("a", Record(None, "no room", passing=True))
    cache.put_time("b", Record(None, "wrong result"))
    assert cache.time("a") == Record(None, "no room", passing=True)
    cache.close()
    again = TimingCache(tmp_path / "t.sqlite")
    assert again.time("a") is None and again.time("b") == Record(None, "wrong result")
    again.close()
