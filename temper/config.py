"""Options of a build, and the TEMPER_* environment knobs, each declared once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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
    Knob(
        "TEMPER_ISA",
        "",
        "code level to build for (avx512bf16, avx512vnni, avx512, avx2, portable); empty: the best this machine has",
    ),
    Knob("TEMPER_VERIFY", "0", "1: graphs are verified after passes that edited nothing too, as Temper's tests do"),
    Knob("TEMPER_SYNC", "0", "1: a GPU plan's kernels are launched and waited for one by one, to name one that faults"),
    Knob("TEMPER_SPIN_US", "200", "microseconds a worker thread spins for work before it sleeps"),
)


def knob(name: str) -> str:
    """Current value of a declared knob; KeyError for one that is not declared."""
    return {k.name: k for k in KNOBS}[name].read()


Shape = tuple[int, ...]

#: (min, opt, max) of a size, or of a whole shape.
Range = tuple[int, int, int]
ShapeRange = tuple[Shape, Shape, Shape]


@dataclass(frozen=True)
class Profile:
    """Sizes one program is for: each from min to max, tuned at opt. An engine takes the profile that holds its input.

    symbols: ranges of symbolic dimensions by name, Profile.of(N=(1, 8, 32), S=128). inputs: ranges of whole shapes by
    input, Profile.of_shapes({"x": ((1, 3, 224, 224), (8, 3, 224, 224), (32, 3, 224, 224))}), as TensorRT states them.
    """

    symbols: tuple[tuple[str, Range], ...]
    inputs: tuple[tuple[str, ShapeRange], ...] = ()

    def __post_init__(self) -> None:
        for name, sizes in self.symbols:
            if len(sizes) != 3 or not 0 < sizes[0] <= sizes[1] <= sizes[2]:
                raise ConfigError(f"profile of {name}: needs 0 < min <= opt <= max, not {tuple(sizes)}")
        for name, shapes in self.inputs:
            check_shape_range(name, shapes)

    @staticmethod
    def of(**ranges: int | Range) -> Profile:
        """Ranges by symbol; a number is a range of one size."""
        full = {name: (r, r, r) if isinstance(r, int) else tuple(r) for name, r in ranges.items()}
        return Profile(tuple(sorted(full.items())))  # type: ignore[arg-type]

    @staticmethod
    def of_shapes(shapes: Mapping[str, Sequence[Sequence[int]]]) -> Profile:
        """Ranges by input name: (min, opt, max) shapes."""
        return Profile((), tuple((name, shape_range(name, given)) for name, given in sorted(shapes.items())))

    @property
    def ranges(self) -> dict[str, Range]:
        return dict(self.symbols)


def shape_range(name: str, given: Sequence[Sequence[int]]) -> ShapeRange:
    """The (min, opt, max) shapes given for an input. ConfigError if they are not that."""
    shapes = tuple(tuple(int(d) for d in s) for s in given)
    check_shape_range(name, shapes)
    return shapes  # type: ignore[return-value]


def check_shape_range(name: str, shapes: Sequence[Shape]) -> None:
    """ConfigError unless these are three shapes of one rank with 0 < min <= opt <= max along every axis."""
    if len(shapes) != 3 or len({len(s) for s in shapes}) != 1:
        raise ConfigError(f"shapes of input '{name}': needs (min, opt, max) of one rank, not {tuple(shapes)}")
    for axis, (low, best, high) in enumerate(zip(*shapes, strict=True)):
        if not 0 < low <= best <= high:
            raise ConfigError(
                f"shapes of input '{name}', axis {axis}: needs 0 < min <= opt <= max, not {(low, best, high)}"
            )


#: What tensors can be stored in.
PRECISIONS = ("fp32", "fp16", "bf16")


def kept_wide(patterns: Sequence[str], precision: str) -> tuple[str, ...]:
    """The layers that stay in float32 in a build of `precision`, of patterns such as '/head/*=fp32'; those pinned to
    the build's own precision need nothing. ConfigError for another."""
    found = []
    for text in patterns:
        pattern, equals, kept = text.rpartition("=")
        if not equals or kept not in ("fp32", precision):
            raise ConfigError(
                f"'{text}' does not say what to keep: write PATTERN=fp32, for example '/head/*=fp32'; other precisions "
                "are kept apart in INT8 builds only (precision='int8', --int8)"
            )
        found += [pattern] * (kept == "fp32" != precision)
    return tuple(found)


@dataclass(frozen=True)
class BuildConfig:
    """The options of a build.

    device: "cpu", "cuda", "cuda:1", or "cuda:sm_90" to build for a GPU that is not here (with effort 0).
    threads: threads the engine will use (results do not depend on it).
    effort: 0: nothing is timed, the cost model chooses; 1 to 5: more and more candidates are timed.
    isa: code level of a CPU; "" for the best of this machine.
    profiles: ranges of symbolic dimensions; symbols left out are 1.
    batches: ranges of the first dimension of every input, each combined with every profile.
    shapes: input name -> its shape, or (min, opt, max) shapes, which hold in every profile.
    portable_graph: keep the graph in the plan so that `temper rebuild` can re-tune it elsewhere.
    cache: file of the timing cache; None: the user's own.
    jobs: compilers that run at once; 0: one per core.
    dump: folder for the graph after every pass and every generated source.
    stop_after: name of the pass after which the pass pipeline stops (bisection).
    disable: names of passes, rewrite rules and tactics this build does without.
    loop_limit: steps after which a loop that depends on data is an error at run time.
    precision: type in which a GPU stores tensors between its kernels, and multiplies: "fp32", "fp16" or "bf16".
    wide: patterns of names of layers that stay in float32 nevertheless.
    tf32: a GPU's products of float32 may round their operands to 10 bits of mantissa (TF32).
    """

    threads: int = 1
    effort: int = 2
    isa: str = ""
    device: str = "cpu"
    profiles: tuple[Profile, ...] = ()
    portable_graph: bool = False
    cache: Path | None = None
    jobs: int = 0
    stop_after: str = ""
    disable: tuple[str, ...] = ()
    dump: Path | None = None
    loop_limit: int = 1_000_000
    shapes: Mapping[str, Shape | ShapeRange] = field(default_factory=dict)
    batches: tuple[Range, ...] = ()
    precision: str = "fp32"
    wide: tuple[str, ...] = ()
    tf32: bool = True

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ConfigError(f"threads must be at least 1, not {self.threads}")
        if self.loop_limit < 1:
            raise ConfigError(f"loop_limit must be at least 1, not {self.loop_limit}")
        if not 0 <= self.effort <= 5:
            raise ConfigError(f"effort must be 0 to 5, not {self.effort}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        for name, shapes in self.shape_ranges.items():
            check_shape_range(name, shapes)
        for low, best, high in self.batches:
            if not 0 < low <= best <= high:
                raise ConfigError(f"batches: needs 0 < min <= opt <= max, not {(low, best, high)}")

    @property
    def static_shapes(self) -> dict[str, Shape]:
        """Inputs given one shape."""
        return {k: v for k, v in self.shapes.items() if not (v and isinstance(v[0], tuple))}

    @property
    def shape_ranges(self) -> dict[str, ShapeRange]:
        """Inputs given (min, opt, max) shapes."""
        return {k: v for k, v in self.shapes.items() if v and isinstance(v[0], tuple)}
