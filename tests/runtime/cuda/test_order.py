"""The order of launches that memory asks for, against all conflicts found one pair at a time."""

from __future__ import annotations

import random

from temper.plan.format import Launch, Ref
from temper.runtime.cuda.order import Span, dependencies, straightened


def arena(row: int, start: int, nbytes: int) -> Span:
    return ("arena", row), start, start + nbytes


def launch(reads: list[Span | None], writes: list[Span], report: int = -1) -> tuple[Launch, list[Span | None]]:
    spans = [*reads, *writes]
    refs = tuple(Ref("null") for _ in spans)
    return Launch(("k",), refs, writes=tuple(range(len(reads), len(spans))), report=report), spans


def order(*made: tuple[Launch, list[Span | None]]) -> list[list[int]]:
    return dependencies([x for x, _ in made], [s for _, s in made])


A, B, C, D = (arena(i, 100 * i, 100) for i in range(4))


def test_branches_are_free_of_each_other() -> None:
    fork = launch([None], [A])
    assert order(fork, launch([A], [B]), launch([A], [C]), launch([B, C], [D])) == [[], [0], [0], [1, 2]]


def test_chains_keep_only_the_last_edge() -> None:
    assert order(launch([], [A]), launch([A], [B]), launch([A, B], [C])) == [[], [0], [1]]


def test_memory_used_again_waits_for_its_last_reader() -> None:
    again = arena(9, 50, 100)  # over parts of A and B
    made = order(launch([], [A]), launch([], [B]), launch([A], [C]), launch([B], [D]), launch([], [again]))
    assert made == [[], [], [0], [1], [2, 3]]


def test_writing_over_what_another_reads_comes_after() -> None:
    # the third launch writes in place what the second reads too
    assert order(launch([], [A]), launch([A], [B]), launch([A], [A]), launch([A, B], [C])) == [[], [0], [1], [2]]


def test_pieces_of_one_buffer_may_be_written_in_any_order() -> None:
    assert order(launch([], [A]), launch([], [A]), launch([A], [B])) == [[], [], [0, 1]]


def test_every_piece_waits_for_who_had_the_memory_before() -> None:
    again = arena(9, 50, 100)  # over parts of A and B
    made = order(launch([], [A]), launch([A], [C]), launch([C], [D]), launch([], [again]), launch([], [again]))
    assert made == [[], [0], [1], [1], [1]]


def test_stages_and_shared_scratch_keep_their_order() -> None:
    scratch: Span = ("shared", 0), 0, 0
    assert order(launch([], [A], report=3), launch([], [A], report=3)) == [[], [0]]
    assert order(launch([scratch], [A]), launch([scratch], [B])) == [[], [0]]


def test_every_conflict_of_random_programs_is_ordered() -> None:
    rng = random.Random(4)
    for _ in range(60):
        rows = [arena(i, 10 * rng.randrange(6), 10 * rng.randrange(1, 4)) for i in range(8)]
        alive: list[Span] = []
        made = []
        for row in rows:  # each is written over dead memory, in one piece or two, and read for a while
            alive = [s for s in alive if not (s[1] < row[2] and row[1] < s[2])]
            for _ in range(rng.randrange(1, 3)):  # pieces
                made.append(launch([s for s in alive if rng.random() < 0.5], [row]))
            alive.append(row)
        got = order(*made)
        after = [set() for _ in made]
        for i, before in enumerate(got):
            for j in before:
                after[i] |= {j} | after[j]
        for i, (x, spans) in enumerate(made):
            for j in range(i):
                y, other = made[j]
                clash = any(
                    s is not None and t is not None and s[1] < t[2] and t[1] < s[2] and (k in x.writes or m in y.writes)
                    for k, s in enumerate(spans)
                    for m, t in enumerate(other)
                )
                pieces = other[-1] == spans[-1] and other[-1] not in spans[:-1]
                assert not clash or j in after[i] or pieces, (i, j)


def test_what_is_almost_a_straight_line_becomes_one() -> None:
    line = [[], [], [0, 1], *([i] for i in range(2, 39))]  # 39 of 40 launches on one path
    assert straightened(line) == [[], *([i] for i in range(39))]
    fork = [[], [], [0, 1], [2]]
    assert straightened(fork) == fork
    assert straightened([]) == []
