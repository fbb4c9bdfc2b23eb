"""Remembers candidates of earlier builds and the keys of their code, so that texts are generated only where needed.

Texts are made only of candidates that are compiled, timed or chosen. The candidates and their texts follow from the
workload and from Temper's own source, whose digest is part of every key: any changed file means a fresh start.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from temper.tactics.base import Params
from temper.tune.timing_cache import TimingCache, digest

#: Files that say what is generated.
_SOURCES = (".py", ".c", ".h")


@dataclass(frozen=True)
class Generated:
    """A candidate's tactic and parameters, the key of its code, and what keys of times hold of its kernel: whether it
    may work in place, and whether it is launched on a grid."""

    tactic: str
    params: Params
    code_key: str
    in_place: bool
    grid: bool


@dataclass(frozen=True)
class CandidateList:
    """The candidates of a workload, and the tactics that declined with their reasons."""

    candidates: tuple[Generated, ...]
    declined: tuple[tuple[str, str], ...]

    def to_text(self) -> str:
        return json.dumps(
            [[[g.tactic, g.params, g.code_key, g.in_place, g.grid] for g in self.candidates], self.declined]
        )

    @staticmethod
    def from_text(text: str) -> CandidateList:
        candidates, declined = json.loads(text)
        return CandidateList(
            tuple(Generated(t, tuple((k, v) for k, v in p), code, bool(i), bool(g)) for t, p, code, i, g in candidates),
            tuple((name, reason) for name, reason in declined),
        )


def candidate_list_key(*about: str) -> str | None:
    """The key that a workload's candidates are kept under; None if Temper's own source cannot be read.

    about: everything they depend on besides that source.
    """
    version = source_digest()
    return digest("contestants", version, *about) if version else None


def recall(cache: TimingCache, key: str | None) -> CandidateList | None:
    """What `keep` stored under the key, in this build or an earlier one."""
    text = None if key is None else cache.text(key)
    return None if text is None else CandidateList.from_text(text)


def keep(cache: TimingCache, key: str | None, found: CandidateList) -> None:
    """Stores candidates for later builds; nothing if there is no key."""
    if key is not None:
        cache.put_text(key, found.to_text())


@cache
def source_digest() -> str:
    """SHA-256 of Temper's own files; empty if they cannot be read."""
    root = Path(__file__).parents[1]
    h = hashlib.sha256()
    try:
        files = sorted(p for p in root.rglob("*") if p.suffix in _SOURCES)
        for p in files:
            data = p.read_bytes()
            h.update(f"{p.relative_to(root)} {len(data)}:".encode() + data)
    except OSError:
        return ""
    return h.hexdigest() if files else ""
