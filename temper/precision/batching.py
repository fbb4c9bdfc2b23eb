"""Converts arrays as users have them to the batches a model takes, or says why that is impossible."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from temper.config import Range
from temper.dtypes import ML_FLOATS, STORAGE, storage
from temper.ir.dims import Dim, DimLike, evaluate, solved
from temper.ir.types import TensorType

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Unfit:
    """A sample that cannot be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Cut:
    """One batch and what its samples are called."""

    arrays: Arrays
    names: tuple[str, ...]


@dataclass
class Fitter:
    """Turns items into batches of the model's size.

    inputs: types by name; a dimension may be symbolic.
    ranges: of the symbols, in every profile; none: any size.
    note: of the sizes, for whoever complains.

    An item is a mapping by input name, a sequence of arrays in the inputs' order, or the only input's array. Its arrays
    may be (tried in this order): a batch exactly as the model takes it; a single sample without the axis of the batch;
    any number of samples along that axis; or whole batches along one more axis in front. Samples are joined to batches
    of the model's size; with an open batch axis, that of the first profile's optimum.
    """

    inputs: Mapping[str, TensorType]
    ranges: Sequence[Mapping[str, Range]] = ()
    note: str = ""
    #: conversions made and data left out, in words, each once
    remarks: dict[str, None] = field(default_factory=dict)
    _waiting: list[Cut] = field(default_factory=list)

    def __post_init__(self) -> None:
        firsts = [t.shape[0] if t.rank else 0 for t in self.inputs.values()]
        self._batch: int | None = None
        self._open = isinstance(firsts[0], Dim) if firsts else False
        if firsts and all(d == firsts[0] for d in firsts) and firsts[0] != 0:
            first = firsts[0]
            self._batch = first if isinstance(first, int) else self._optimum(first)

    def _optimum(self, d: DimLike) -> int:
        known = {name: r[1] for name, r in (self.ranges[0] if self.ranges else {}).items()}
        symbols = d.symbols if isinstance(d, Dim) else frozenset()
        return evaluate(d, {s: known.get(s, 1) for s in symbols})

    def optimal_shape(self, name: str) -> tuple[int, ...]:
        """An input's shape with every symbol at the first profile's optimum, 1 without one."""
        return tuple(self._optimum(d) for d in self.inputs[name].shape)

    def cuts(self, item: object, name: str, start: int | None = None) -> Iterator[Cut | Unfit]:
        """The batches an item completes, and what of it cannot be used. start: number of its first sample, of a piece
        of something larger."""
        arrays = self._by_name(item)
        if isinstance(arrays, str):
            yield Unfit(name, arrays)
            return
        for key, a in arrays.items():
            converted = self._converted(key, a)
            if isinstance(converted, str):
                yield Unfit(name, converted)
                return
            arrays[key] = converted
        shapes = {k: a.shape for k, a in arrays.items()}
        misfit = self._misfit(shapes, 0)
        if misfit is None:
            yield _checked(Cut(arrays, self._called(arrays, name, start)))
            return
        first = start or 0
        if self._batch is not None and self._misfit({k: (1, *s) for k, s in shapes.items()}, 1) is None:
            yield from self._joined([Cut({k: a[None] for k, a in arrays.items()}, (name,))])
            return
        counts = {s[0] if s else 0 for s in shapes.values()}
        (count,) = counts if len(counts) == 1 else (0,)
        if count and self._batch is not None and self._misfit(shapes, 1) is None:
            yield from self._joined(
                Cut({k: a[i : i + 1] for k, a in arrays.items()}, (f"{name}[{first + i}]",)) for i in range(count)
            )
        elif count and self._misfit({k: s[1:] for k, s in shapes.items()}, 0) is None:
            for i in range(count):
                yield _checked(Cut({k: a[i] for k, a in arrays.items()}, (f"{name}[{first + i}]",)))
        else:
            yield Unfit(name, misfit)

    def _called(self, arrays: Arrays, name: str, start: int | None) -> tuple[str, ...]:
        """Names of the samples of a whole batch."""
        counts = {a.shape[0] if a.ndim else 0 for a in arrays.values()}
        if self._batch is None or len(counts) != 1:
            return (name,) if start is None else (f"{name}[{start}]",)
        (count,) = counts
        if count == 1 and start is None:
            return (name,)
        return tuple(f"{name}[{(start or 0) + i}]" for i in range(count))

    def rows(self, arrays: Arrays) -> int:
        """In how many parts along the first axis arrays with all samples are to be given to `cuts`, 1 for whole."""
        shapes = {k: a.shape for k, a in arrays.items() if k in self.inputs}
        counts = {s[0] if s else 0 for s in shapes.values()}
        if set(shapes) != set(self.inputs) or len(counts) != 1 or self._misfit(shapes, 0) is None:
            return 1
        (count,) = counts
        step = self._batch or 1
        return max(1, -(-count // step))

    def end(self) -> Iterator[Cut]:
        """What is still waiting for its batch to be full: given as it is where the batch's size is open."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        joined = _together(waiting)
        if self._misfit({k: a.shape for k, a in joined.arrays.items()}, 0) is None:
            yield joined
            return
        self._remark(f"the last {len(waiting)} samples were left out: they do not fill a batch of {self._batch}")

    def _remark(self, text: str) -> None:
        self.remarks.setdefault(text)

    # ---- names and types ----

    def _by_name(self, item: object) -> dict[str, np.ndarray] | str:
        try:
            return self._arrays(item)
        except (TypeError, ValueError, RuntimeError) as e:  # a library's words: it is on a GPU, it has a gradient
            return f"it cannot be had as a numpy array: {' '.join(str(e).split())}"

    def _arrays(self, item: object) -> dict[str, np.ndarray] | str:
        names = list(self.inputs)
        if isinstance(item, Mapping):
            if missing := [n for n in names if n not in item]:
                given = ", ".join(map(str, item)) or "nothing"
                return f"it has no array for input {', '.join(map(repr, missing))}; it holds {given}"
            if unused := [str(n) for n in item if n not in self.inputs]:
                self._remark(f"not used, because no input is called so: {', '.join(unused)}")
            return {n: np.asarray(item[n]) for n in names}
        if isinstance(item, (list, tuple)) and all(hasattr(a, "__array__") for a in item):
            if len(item) != len(names):
                return f"it is {len(item)} arrays, the model's inputs are {', '.join(names)}"
            return {n: np.asarray(a) for n, a in zip(names, item, strict=True)}
        if isinstance(item, (list, tuple)) and item and all(isinstance(a, int) for a in item):
            return "it is a list of numbers: addresses on a GPU, which TensorRT takes, are no data here; give arrays"
        if not hasattr(item, "__array__") and not isinstance(item, (int, float)):
            return f"it is a {type(item).__name__}, neither an array nor a dict of arrays by input name"
        if len(names) != 1:
            return f"it is one array, the model's inputs are {', '.join(names)}: give a dict by input name"
        return {names[0]: np.asarray(item)}

    def _converted(self, name: str, a: np.ndarray) -> np.ndarray | str:
        """The array in the input's dtype, where that loses nothing but float precision."""
        kind = self.inputs[name].dtype
        want = storage(kind)
        if a.dtype == want and kind not in STORAGE:
            return a
        if a.dtype == want or a.dtype.name == ML_FLOATS.get(kind):
            return a.view(want) if a.dtype.itemsize == want.itemsize else a
        text = f"input '{name}' is {kind}, the data {a.dtype}"
        if kind in STORAGE or a.dtype.kind not in "fiub" or want.kind not in "fiub":
            return f"{text}: convert it"
        if want.kind == "f" and a.dtype.kind == "f":
            self._remark(f"{text}: rounded to {want}")
            with np.errstate(over="ignore"):
                return a.astype(want)
        if want.kind == "f":
            exact = 2.0 ** (np.finfo(want).nmant + 1)
            if a.dtype.kind != "b" and a.size and np.abs(a.astype(np.float64)).max() > exact:
                return f"{text} with values that {want} cannot hold exactly"
            self._remark(f"{text}: converted as it is, without scaling")
            return a.astype(want)
        if a.dtype.kind == "f" or want.kind == "b":
            return f"{text}: convert it with x.astype('{want}') if that is meant"
        if a.size and (a.min() < np.iinfo(want).min or a.max() > np.iinfo(want).max):
            return f"{text} with values from {a.min()} to {a.max()}, which {want} cannot hold"
        self._remark(f"{text}: converted, every value fits")
        return a.astype(want)

    # ---- shapes ----

    def _misfit(self, shapes: Mapping[str, tuple[int, ...]], skip: int) -> str | None:
        """Why arrays of these shapes do not fit, the first `skip` axes aside; None if they do."""
        env: dict[str, int] = {}
        for name, t in self.inputs.items():
            shape, text = shapes[name], f"input '{name}' is {self.inputs[name]}, the data {list(shapes[name])}"
            if len(shape) != t.rank:
                return text
            for d, size in list(zip(t.shape, shape, strict=True))[skip:]:
                if not isinstance(d, Dim):
                    if d != size:
                        return text
                elif (found := solved(d, size)) is not None:
                    if env.setdefault(found[0], found[1]) != found[1]:
                        return f"{text}, where {found[0]} would be {found[1]} and {env[found[0]]} elsewhere"
                elif not d.symbols <= set(env) or evaluate(d, env) != size:
                    return text
        if not self.ranges or any(_within(env, r) for r in self.ranges):
            return None
        sizes = ", ".join(f"{k} = {v}" for k, v in env.items())
        allowed = "; ".join(
            ", ".join(f"{k} {r[0]}..{r[2]}" for k, r in p.items() if k in env) or "any" for p in self.ranges
        )
        return f"the data has {sizes}, which is outside of the profiles ({allowed})"

    def _joined(self, rows: Iterable[Cut]) -> Iterator[Cut | Unfit]:
        """Full batches of single samples; the rest waits. Samples of another shape begin a new batch."""
        for row in map(_checked, rows):
            if isinstance(row, Unfit):
                yield row
                continue
            if self._waiting and _shapes(self._waiting[0]) != _shapes(row):
                yield from self.end()
            self._waiting.append(row)
            if len(self._waiting) == self._batch:
                full, self._waiting = _together(self._waiting), []
                yield full


def _shapes(cut: Cut) -> list[tuple[int, ...]]:
    return [a.shape for a in cut.arrays.values()]


def _together(cuts: Sequence[Cut]) -> Cut:
    if len(cuts) == 1:
        return cuts[0]
    keys = cuts[0].arrays
    return Cut(
        {k: np.concatenate([c.arrays[k] for c in cuts]) for k in keys}, tuple(name for c in cuts for name in c.names)
    )


def _within(env: Mapping[str, int], ranges: Mapping[str, Range]) -> bool:
    return all(ranges[s][0] <= n <= ranges[s][2] for s, n in env.items() if s in ranges)


def _checked(cut: Cut) -> Cut | Unfit:
    """The same, or which input has values that are not finite."""
    for name, a in cut.arrays.items():
        if a.dtype.kind != "f" or np.isfinite(a).all():
            continue
        nan = int(np.isnan(a).sum())
        infinite = int(a.size - np.isfinite(a).sum()) - nan
        found = [f"{n} {what}" for n, what in ((nan, "NaN"), (infinite, "infinite")) if n]
        row = int(np.argmin([np.isfinite(r).all() for r in a])) if len(cut.names) > 1 else 0
        return Unfit(cut.names[row], f"input '{name}' has {' and '.join(found)} of {a.size} values")
    return cut
