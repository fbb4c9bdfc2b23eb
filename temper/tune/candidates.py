"""The candidate kernels of a workload: tactics with parameters, best predicted first, as the effort allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from temper.ir.dims import DimLike
from temper.tactics.base import Kernel, Params, Tactic, Workload
from temper.tactics.workload import bound
from temper.tune.timing_cache import digest

#: Candidates timed per workload at each effort; 0 takes the cost model's first choice untimed.
CANDIDATES = {0: 1, 1: 2, 2: 6, 3: 12, 4: 32, 5: 10_000}

#: The effort whose candidates are looked at where none of those of a lesser one is right.
RESCUE = 4


def label(tactic: Tactic, params: Params) -> str:
    """A candidate in words: the tactic and its parameters."""
    return tactic.name + (" " + " ".join(f"{k}={v}" for k, v in params) if params else "")


def packing(tactic: Tactic, params: Params) -> Params:
    """The parameters that the layout of the packed weights depends on: those a tactic names in `packing`, else all."""
    names = getattr(tactic, "packing", None)
    return params if names is None else tuple((k, v) for k, v in params if k in names)


@dataclass(frozen=True)
class Remembered:
    """A kernel that an earlier build generated: the key of its code, what else keys of times hold, and how to generate
    it."""

    code_key: str
    in_place: bool
    grid: DimLike
    make: Callable[[], Kernel] = field(compare=False)


@dataclass(frozen=True)
class Candidate:
    """compiler: name and version of what makes machine code of it."""

    tactic: Tactic
    params: Params
    made: Kernel | Remembered
    isa: str
    compiler: str

    @cached_property
    def label(self) -> str:
        return label(self.tactic, self.params)

    @cached_property
    def kernel(self) -> Kernel:
        return self.made.make() if isinstance(self.made, Remembered) else self.made

    @cached_property
    def code_key(self) -> str:
        return self.made.code_key if isinstance(self.made, Remembered) else self._digest

    @property
    def _digest(self) -> str:
        return digest(self.kernel.code, self.isa, self.compiler)

    @property
    def genuine(self) -> bool:
        """What is generated now has the code that is remembered."""
        return not isinstance(self.made, Remembered) or self._digest == self.made.code_key


@dataclass(frozen=True)
class Trial:
    """What became of one candidate: a time, or why it was not chosen."""

    label: str
    seconds: float | None
    note: str = ""


#: Predicted seconds, the tactic's number, the tactic, parameters.
Ranked = tuple[float, int, Tactic, Params]


@dataclass(frozen=True)
class Known:
    """What does not change between questions for candidates, to be asked again: predictions and reasons by the key of a
    task, and candidates by workload, tactic and parameters."""

    ranked: dict[str, tuple[list[Ranked], list[Trial]]] = field(default_factory=dict)
    candidates: dict[tuple[str, str, Params], Candidate] = field(default_factory=dict)


def _ranked(
    tactics: Sequence[Tactic], w: Workload, env: Mapping[str, int] | None
) -> tuple[list[Ranked], list[Trial]]:
    """Every legal candidate as (predicted seconds, number of its tactic, tactic, parameters), best first, and the
    tactics that declined."""
    ranked: list[Ranked] = []
    declined = []
    for order, tactic in enumerate(tactics):
        if w.op not in tactic.ops:
            continue
        reason = tactic.accepts(w)
        if reason is not None:
            declined.append(Trial(tactic.name, None, f"declined: {reason}"))
            continue
        # a kernel for varying sizes is blocked for those it is tuned at, though right for all
        guide = bound(w, env) if env and w.symbols else w
        if tactic.accepts(guide) is not None:
            guide = w
        ranked += [(tactic.predict(guide, p), order, tactic, p) for p in tactic.candidates(guide)]
    ranked.sort(key=lambda r: (r[0], r[1], r[3]))
    return ranked, declined


def predicted_seconds(tactics: Sequence[Tactic], w: Workload, env: Mapping[str, int] | None = None) -> float | None:
    """Predicted seconds of the fastest legal candidate; None if there is no candidate."""
    ranked, _ = _ranked(tactics, w, env)
    return ranked[0][0] if ranked else None


def candidates_for(
    tactics: Sequence[Tactic],
    w: Workload,
    effort: int,
    compiler: str,
    env: Mapping[str, int] | None = None,
    also: Sequence[tuple[Tactic, Params]] = (),
    known: Known | None = None,
) -> tuple[list[Candidate], list[Trial]]:
    """The candidates an effort looks at, best predicted first, and the tactics that declined, with their reasons.

    env: sizes of the variables to predict at.
    also: candidates to add, and the best that share their packed weights.
    known: of the same tactics and compiler; what is found out is added.
    """
    known = known or Known()
    key = w.key + "".join(f",{s}={v}" for s, v in sorted((env or {}).items()) if s in w.symbols)
    if key not in known.ranked:
        known.ranked[key] = _ranked(tactics, w, env)
    ranked, declined = known.ranked[key]
    chosen = ranked[: CANDIDATES[effort]]
    if effort:
        # predictions of different tactics err differently: each one gets its best two into the contest
        for number in sorted({r[1] for r in ranked}):
            own = [r for r in ranked if r[1] == number][:2]
            if own and own[0][0] < 4 * ranked[0][0]:
                chosen += [r for r in own if r not in chosen]
    if effort >= RESCUE:
        # kernels that are alike may fail alike: every value of every parameter gets its best into the contest
        best: dict[tuple[int, str, int], Ranked] = {}
        for r in ranked:
            for name, value in r[3]:
                best.setdefault((r[1], name, value), r)
        chosen += [r for r in dict.fromkeys(best.values()) if r not in chosen]
    contestants = {(tactic.name, params): tactic for _, _, tactic, params in chosen}
    named = {(t, tuple(k for k, _ in p)) for _, _, t, p in ranked}
    for tactic, params in also:
        # a layer of this name may be another in another profile: what it was chosen by may mean nothing here
        if (tactic, tuple(k for k, _ in params)) in named:
            contestants.setdefault((tactic.name, params), tactic)
            # the best of those that read the same packed weights
            alike = [p for _, _, t, p in ranked if t is tactic and packing(t, p) == packing(t, params)]
            contestants |= {(tactic.name, p): tactic for p in alike[:2]}
    candidates = []
    for (name, params), tactic in contestants.items():
        found = known.candidates.get((w.key, name, params))
        if found is None:
            found = Candidate(tactic, params, generated(tactic, w, params), w.isa, compiler)
            known.candidates[w.key, name, params] = found
        candidates.append(found)
    return candidates, [*declined]


def generated(tactic: Tactic, w: Workload, params: Params) -> Kernel:
    """The kernel, named after all that it is made of."""
    return tactic.generate(w, params, "k" + digest(w.key, tactic.name, repr(params))[:16])
