"""Which launches of a program must precede which: derived from the memory they read and write.

Two launches of a run conflict where one writes bytes that the other touches. Launches of one region (the stages of a
kernel) and those that use the shared scratch keep their order; pieces of one buffer that several regions write may be
written in any order, as every reader comes after all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from temper.plan.format import Launch, Ref
from temper.runtime.binding import Sized

#: A stretch of memory: a key, and its first and last byte + 1 within the context's block (0, 0: nobody else's bytes).
Span = tuple[tuple[str, int], int, int]


#: The part of a run's launches on its longest path from which on there is too little beside it to run at once.
_STRAIGHT = 0.95


def span_of(bound: Sized, r: Ref) -> Span | None:
    """The memory that others may write which an argument is in."""
    if r.kind == "arena":
        return ("arena", r.index), *bound.extent(r)
    return ((r.kind, r.index), 0, 0) if r.kind in ("output", "host", "shared") else None


def order_of(bound: Sized, launches: Sequence[Launch]) -> list[list[int]]:
    """For every launch of a program the earlier ones it waits for: its `dependencies`, or the one before it if nearly
    all launches lie on one path."""
    return straightened(dependencies(launches, [[span_of(bound, r) for r in x.args] for x in launches]))


def straightened(before: list[list[int]]) -> list[list[int]]:
    """Dependencies of launches, or a chain where nearly all of them lie on one path."""
    depths: list[int] = []
    for above in before:
        depths.append(1 + max((depths[j] for j in above), default=0))
    if max(depths, default=0) < _STRAIGHT * len(before):
        return before
    return [[i - 1] if i else [] for i in range(len(before))]


@dataclass
class _Use:
    """Who has written and read a buffer so far. before: who used its bytes before it did: every writer comes after
    them, as pieces may be written in any order."""

    start: int
    end: int
    before: set[int]
    writers: list[int] = field(default_factory=list)
    readers: list[int] = field(default_factory=list)


def dependencies(launches: Sequence[Launch], spans: Sequence[Sequence[Span | None]]) -> list[list[int]]:
    """For every launch the earlier ones it depends on, without those that others of them depend on already.

    spans: for every launch, what each argument is in; None for constants and null pointers.
    """
    uses: dict[tuple[str, int], _Use] = {}
    above: list[int] = []  # bit masks of all that a launch comes after
    out: list[list[int]] = []
    for i, (x, own) in enumerate(zip(launches, spans, strict=True)):
        needs: set[int] = set()
        if i and x.report >= 0 and launches[i - 1].report == x.report:
            needs.add(i - 1)
        touched = {s for s in own if s is not None}
        written = {s for k, s in enumerate(own) if s is not None and (k in x.writes or s[0][0] == "shared")}
        read = {s for k, s in enumerate(own) if s is not None and (k not in x.writes or s[0][0] == "shared")}
        for key, start, end in touched:
            if key not in uses:
                # what lay in these bytes before must be done with
                over = [u for u in uses.values() if u.start < end and start < u.end]
                uses[key] = _Use(start, end, {i for u in over for i in (*u.writers, *u.readers)})
            needs |= uses[key].before
        for span in read:
            needs |= set(uses[span[0]].writers)
        for span in written:
            needs |= set(uses[span[0]].readers)
        for span in written:
            uses[span[0]].writers.append(i)
        for span in read:
            uses[span[0]].readers.append(i)
        kept, mask = [], 0
        for j in sorted(needs - {i}, reverse=True):
            if not mask >> j & 1:
                kept.append(j)
                mask |= above[j] | 1 << j
        above.append(mask)
        out.append(sorted(kept))
    return out
