"""Options of a build, and the TEMPER_* environment knobs, each declared once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from temper.errors import ConfigError


@dataclass(frozen=True)
class Knob:
    """An environment variable: name, default, and one line of documentation."""

    name: str
    default: str
    doc: str

    def read(self) -> str:
        return os.environ.get(self.name, self.default)


KNOBS: tuple[Knob, ...] = (
    Knob("TEMPER_DUMP", "", "folder for numbered dumps: the graph after every pass, and every generated source"),
    Knob("TEMPER_CACHE", "", "the timing cache's file; empty: ~/.cache/temper/timing.sqlite"),
    Knob(
        "TEMPER_DEBUG",
        "0",
        "1: a line per region while building; 2: also every candidate's time; 3: also every rejection's reason",
    ),
    Knob("TEMPER_ISA", "", "code level to build for (avx512, avx2, portable); empty: the best this machine has"),
    Knob("TEMPER_SPIN_US", "200", "microseconds a worker thread spins for work before it sleeps"),
)


def knob(name: str) -> str:
    """Current value of a declared knob; KeyError for one that is not declared."""
    return {k.name: k for k in KNOBS}[name].read()


@dataclass(frozen=True)
class Profile:
    """Range of one input's shape: each dimension min <= opt <= max; the engine is tuned at opt and can run from min to
    max.

    Shapes are given per input name, or for the symbols directly: Profile.of(N=(1, 8, 32)).
    """

    symbols: tuple[tuple[str, tuple[int, int, int]], ...]

    @staticmethod
    def of(**ranges: tuple[int, int, int]) -> Profile:
        for name, (low, opt, high) in ranges.items():
            if not 0 < low <= opt <= high:
                raise ConfigError(f"profile of {name}: needs 0 < min <= opt <= max, not {(low, opt, high)}")
        return Profile(tuple(sorted(ranges.items())))

    @property
    def ranges(self) -> dict[str, tuple[int, int, int]]:
        return dict(self.symbols)


@dataclass(frozen=True)
class BuildConfig:
    """What a build aims at.

    threads: threads the engine will use (results do not depend on it). effort 0: no timing, the cost model chooses;
    1..5: ever
    more candidates are timed. isa: "" for the best of this machine. profiles: ranges of symbolic dimensions; symbols
    left out
    get (1, 1, 1). portable_graph: keep the graph in the plan so that `temper rebuild` can re-tune it elsewhere.
    stop_after: name of the pass after which the pass pipeline stops (bisection). disable: names of passes, rewrite
    rules and tactics this build does without. loop_limit: steps after which a loop that depends on data is an error at
    run time.
    """

    threads: int = 1
    effort: int = 2
    isa: str = ""
    profiles: tuple[Profile, ...] = ()
    portable_graph: bool = False
    cache: Path | None = None
    jobs: int = 0
    stop_after: str = ""
    disable: tuple[str, ...] = ()
    dump: Path | None = None
    loop_limit: int = 1_000_000
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ConfigError(f"threads must be at least 1, not {self.threads}")
        if self.loop_limit < 1:
            raise ConfigError(f"loop_limit must be at least 1, not {self.loop_limit}")
        if not 0 <= self.effort <= 5:
            raise ConfigError(f"effort must be 0 to 5, not {self.effort}")
