"""Checks a memory layout without trusting the planner: no code is shared with memory.py, it reads spans and plans only.

Two checks: of bare lifetimes and offsets, and of a whole plan, where every kernel is followed and no bytes may be
overwritten between the launch that wrote them and the last one that reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from temper.errors import VerificationError
from temper.plan.format import HostStep, Launch, Native, Plan, Profile, Ref, SubProgram, value_of


def layout_faults(
    spans: Sequence[tuple[int, int, int]], offsets: Sequence[int], arena_bytes: int, alignment: int = 64
) -> list[str]:
    """Every fault of a layout of (bytes, first step, last step) spans, in words; empty if it is sound."""
    if len(offsets) != len(spans):
        return [f"{len(offsets)} offsets for {len(spans)} buffers"]
    faults = []
    for i, ((size, _, _), at) in enumerate(zip(spans, offsets, strict=True)):
        if at < 0 or at + size > arena_bytes:
            faults.append(f"buffer {i} occupies [{at}, {at + size}), the arena has {arena_bytes} bytes")
        if at % alignment:
            faults.append(f"buffer {i} is at {at}, not a multiple of {alignment}")
    for step in sorted(
        {first for _, first, _ in spans}
    ):  # an overlap in time begins at the first step of one of the two
        live = sorted(
            (at, at + size, i)
            for i, ((size, first, last), at) in enumerate(zip(spans, offsets, strict=True))
            if first <= step <= last and size
        )
        reach, holder = -1, -1
        for start, end, i in live:
            if start < reach:
                faults.append(f"buffers {holder} and {i} overlap at step {step}")
            if end > reach:
                reach, holder = end, i
    return faults


def check_memory(spans: Sequence[tuple[int, int, int]], offsets: Sequence[int], arena_bytes: int) -> None:
    """VerificationError listing the faults of a layout, if it has any."""
    if faults := layout_faults(spans, offsets, arena_bytes):
        raise VerificationError("the memory plan is wrong (a bug in Temper): " + "; ".join(faults[:5]))


def peak(spans: Sequence[tuple[int, int, int]]) -> int:
    """Largest sum of bytes alive at one step."""
    return max(
        (sum(size for size, first, last in spans if first <= s <= last) for s in {first for _, first, _ in spans}),
        default=0,
    )


def _accesses(plan: Plan | SubProgram, profile: Profile) -> Iterator[tuple[str, bool, list[Ref], list[Ref]]]:
    """(name, waits for earlier steps, reads, writes) of every step of the profile's program."""
    for segment in plan.programs[profile.program]:
        if isinstance(segment, HostStep):
            yield (
                segment.name or segment.op,
                True,
                [t.ref for t in segment.inputs if t is not None],
                [t.ref for t in segment.outputs],
            )
        elif isinstance(segment, Native):
            for launch in segment.launches:
                yield launch.name, launch.barrier, *_split(launch)


def _split(launch: Launch) -> tuple[list[Ref], list[Ref]]:
    writes = [launch.args[i] for i in launch.writes]
    return [a for i, a in enumerate(launch.args) if i not in launch.writes], writes


def plan_faults(plan: Plan) -> list[str]:
    """Faults of every profile of a plan at its largest sizes: bytes read after another buffer's write, before any
    write, or out of bounds.
    """
    faults = []
    for number, profile in enumerate(plan.profiles):
        env = {name: high for name, (_, _, high) in profile.symbols.items()}
        faults += [f"profile {number}: {f}" for f in _check_profile(plan, profile, env)]
    for sub in plan.subs:
        env = {name: high for name, (_, _, high) in sub.profile.symbols.items()}
        faults += [f"'{sub.name}': {f}" for f in _check_profile(sub, sub.profile, env)]
    return faults


def _check_profile(plan: Plan | SubProgram, profile: Profile, env: Mapping[str, int]) -> list[str]:
    faults = []
    spans: dict[int, tuple[int, int]] = {}
    for row, b in enumerate(plan.buffers):
        if profile.offsets[row] >= 0:
            spans[row] = (profile.offsets[row], profile.offsets[row] + value_of(b.bytes, env))
            if spans[row][1] > profile.arena_bytes:
                faults.append(f"buffer '{b.name}' ends at {spans[row][1]}, the arena has {profile.arena_bytes} bytes")

    def overlap(a: int, b: int) -> bool:
        return max(spans[a][0], spans[b][0]) < min(spans[a][1], spans[b][1])

    valid: set[int] = set()  # rows whose bytes are what their writers left
    group: set[int] = set()  # rows written since the last barrier
    for name, waits, reads, writes in _accesses(plan, profile):
        read, written = ({r.index for r in refs if r.kind == "arena"} for refs in (reads, writes))
        for row in sorted((read | written) - set(spans)):
            faults.append(f"'{name}' uses buffer '{plan.buffers[row].name}', which has no place in this profile")
        read, written = read & set(spans), written & set(spans)
        if waits:
            group = set()
        for row in sorted(read):
            if row not in valid and row not in written:
                faults.append(
                    f"'{name}' reads buffer '{plan.buffers[row].name}', whose bytes are not written yet "
                    "or were overwritten"
                )
            if row in group:
                faults.append(f"'{name}' reads buffer '{plan.buffers[row].name}' without a barrier after its writer")
        for row in sorted(written):
            for other in sorted((read | written) - {row}):
                if overlap(row, other):
                    faults.append(
                        f"'{name}' writes buffer '{plan.buffers[row].name}' over its own operand "
                        f"'{plan.buffers[other].name}'"
                    )
            valid -= {other for other in valid if other != row and overlap(row, other)}
        valid |= written
        group |= written
    return faults
