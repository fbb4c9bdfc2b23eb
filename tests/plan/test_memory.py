"""The memory planner against its independent checker, on random lifetimes and on shapes of real networks."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.errors import VerificationError
from temper.plan.format import Native
from temper.plan.memory import Span, lower_bound, plan_memory
from temper.plan.memory_check import check_memory, layout_faults, peak, plan_faults
from temper.plan.memory_svg import lifetimes_svg
from tests.runtime.handmade import host_plan, make_plan

Spans = list[tuple[int, int, int]]
_span = st.tuples(st.one_of(st.integers(0, 100), st.integers(0, 1 << 22)), st.integers(0, 30), st.integers(0, 8)).map(
    lambda t: Span(t[0], t[1], t[1] + t[2])
)


@given(st.lists(_span, max_size=25))
@settings(deadline=None, max_examples=150)
def test_layouts_are_sound_and_repeatable(spans: Spans) -> None:
    offsets, arena = plan_memory(spans)
    assert layout_faults(spans, offsets, arena) == []
    assert lower_bound(spans) == peak(spans) <= arena <= sum(-(-s // 64) * 64 for s, _, _ in spans)
    assert plan_memory(spans) == (offsets, arena)


@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.integers(0, 5), st.integers(0, 3)).map(
            lambda t: (64 * t[0], t[1], t[1] + t[2])
        ),
        min_size=1,
        max_size=5,
    )
)
@settings(deadline=None, max_examples=60)
def test_few_buffers_are_laid_out_optimally(spans: Spans) -> None:
    """Against every order of first fit, which contains an optimal layout."""

    def first_fit(order: tuple[int, ...]) -> int:
        placed: dict[int, int] = {}
        for i in order:
            size, first, last = spans[i]
            taken = sorted(
                (placed[j], placed[j] + spans[j][0]) for j in placed if spans[j][1] <= last and first <= spans[j][2]
            )
            at = 0
            for start, end in taken:
                if start - at >= size:
                    break
                at = max(at, end)
            placed[i] = at
        return max(placed[i] + spans[i][0] for i in placed)

    assert plan_memory(spans)[1] == min(first_fit(o) for o in permutations(range(len(spans))))


def _resnet() -> Spans:
    """ResNet-50, batch 1, channels-last FP32: three convolutions a block, the residual added in the last one."""
    spans: Spans = []
    step, size = 1, 56 * 56 * 64 * 4
    spans += [(112 * 112 * 64 * 4, 0, 1), (size, 1, 5)]
    for blocks, width, side in ((3, 64, 56), (4, 128, 28), (6, 256, 14), (3, 512, 7)):
        for b in range(blocks):
            inner, outer = side * side * width * 4, side * side * width * 16
            first_inner = inner * (4 if b == 0 and width > 64 else 1)
            steps = 4 if b == 0 else 3
            spans += [(first_inner, step + 1, step + 2), (inner, step + 2, step + steps)]
            if b == 0:
                spans.append((outer, step + 3, step + 4))
            spans.append((outer, step + steps, step + steps + (4 if b == blocks - 1 else 3)))
            step += steps
    return spans


def _detector() -> Spans:
    """Long skip connections of very different sizes, as in a feature pyramid."""
    spans: Spans = []
    for i in range(60):
        side = (160, 80, 40, 20, 10)[min(i // 8, 4)]
        spans.append((side * side * 64 * 4, i, i + 1 + (i % 3)))
        if i % 8 == 7:
            spans.append((side * side * 128 * 4, i, max(i, 59 - i // 4)))
    return spans


@pytest.mark.parametrize("spans", [_resnet(), _detector()], ids=["resnet", "detector"])
def test_real_networks_stay_within_five_percent(spans: Spans) -> None:
    offsets, arena = plan_memory(spans)
    check_memory(spans, offsets, arena)
    assert arena <= 1.05 * lower_bound(spans)


def test_nothing_and_empty_buffers() -> None:
    assert plan_memory([]) == ((), 0)
    assert plan_memory([(0, 0, 5), (64, 0, 1), (0, 1, 1)]) == ((0, 0, 0), 64)
    with pytest.raises(ValueError, match="ends before it begins"):
        plan_memory([(1, 2, 1)])


def test_the_checker_sees_every_kind_of_fault() -> None:
    spans = [(128, 0, 2), (64, 2, 3), (64, 3, 4)]
    assert layout_faults(spans, (0, 128, 0), 192) == []
    assert "overlap at step 2" in layout_faults(spans, (0, 64, 0), 192)[0]
    assert "arena has" in layout_faults(spans, (0, 192, 0), 192)[0]
    assert "multiple of 64" in layout_faults(spans, (0, 130, 0), 256)[0]
    assert "offsets for" in layout_faults(spans, (0,), 256)[0]
    with pytest.raises(VerificationError, match="overlap"):
        check_memory(spans, (0, 64, 0), 192)


def test_a_buffer_inside_a_longer_one_is_seen() -> None:
    assert layout_faults([(640, 0, 9), (64, 1, 1), (64, 3, 3)], (0, 64, 512), 640) == [
        "buffers 0 and 1 overlap at step 1",
        "buffers 0 and 2 overlap at step 3",
    ]


def test_a_sound_plan_has_no_faults() -> None:
    assert plan_faults(make_plan()) == []
    assert plan_faults(host_plan()) == []


def test_plan_faults_are_found() -> None:
    plan = make_plan()
    overlapping = replace(plan, profiles=tuple(replace(p, offsets=(0, 0)) for p in plan.profiles))
    assert any("over its own operand" in f for f in plan_faults(overlapping))
    short = replace(plan, profiles=(replace(plan.profiles[0], arena_bytes=512),))
    assert any("arena has 512" in f for f in plan_faults(short))
    ((segment,),) = plan.programs
    assert isinstance(segment, Native)
    mix, dense = segment.launches
    assert any("not written yet" in f for f in plan_faults(replace(plan, programs=((Native((dense, mix)),),))))
    assert any(
        "without a barrier" in f
        for f in plan_faults(replace(plan, programs=((Native((mix, replace(dense, barrier=False))),),)))
    )
    unplaced = replace(plan, profiles=(replace(plan.profiles[0], offsets=(-1, 0)),))
    assert any("no place" in f for f in plan_faults(unplaced))


def test_overwritten_between_writer_and_reader() -> None:
    """t is written, then its bytes are given to `doubled` of a second mix before dense reads t."""
    plan = make_plan()
    ((segment,),) = plan.programs
    assert isinstance(segment, Native)
    mix, dense = segment.launches
    first = replace(mix, args=(mix.args[0], mix.args[2], mix.args[1]))
    reuse = replace(dense, args=(mix.args[2], *dense.args[1:]))
    profile = replace(plan.profiles[0], offsets=(0, 0))
    faults = plan_faults(replace(plan, profiles=(profile,), programs=((Native((first, reuse)),),)))
    assert any("over its own operand" in f or "overwritten" in f for f in faults)


def test_picture_is_xml_with_a_rectangle_per_buffer() -> None:
    spans = [(128, 0, 2), (64, 2, 3), (0, 0, 1)]
    offsets, arena = plan_memory(spans)
    root = ElementTree.fromstring(lifetimes_svg(spans, offsets, arena, ["a<b", "c", "d"]))
    titles = [e.text or "" for e in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 2 and titles[0].startswith("a<b: 128 bytes at 0")
