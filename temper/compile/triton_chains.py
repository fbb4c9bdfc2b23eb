"""Consecutive asynchronous products on sm_90 get one wait instead of several, by an edit of Triton's TTGIR.

Triton waits for each product (WGMMA) at once where it is not the only product of a pipelined loop, and fences shared
memory before each. A run of products that add to the same sums, with nothing else between them, needs one fence before
it and one wait behind it: nothing is written to shared memory within it, and the products take their sums in order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_DOT = re.compile(
    r"(?P<pad> *)(?P<out>%\w+) = ttng\.warp_group_dot (?P<a>%[\w#]+), (?P<b>%[\w#]+), (?P<sums>%[\w#]+)"
    r"( \{(?P<attrs>[^{}]*)\})? : (?P<ta>!ttg\.memdesc<[^()]*>) \* (?P<tb>!ttg\.memdesc<[^()]*>)"
    r" -> (?P<type>tensor<[^()]*>)( loc\(.*)?"
)
_WAIT = re.compile(
    r" *(?P<out>%\w+)(:\d+)? = ttng\.warp_group_dot_wait (?P<dot>%\w+)(, %[\w#]+)* \{pendings = 0 : i32\} : .*"
)
#: What opens a block, or waits itself.
_BLOCK = re.compile(r"\{$|warp_group_dot")
_FENCE = re.compile(r" *ttng\.fence_async_shared .*")


@dataclass
class _Run:
    """Lines [start, stop) with the products among them, and what waits give of them."""

    start: int
    stop: int
    dots: list[re.Match[str]]
    waited: dict[str, str]


def chained_sums(text: str) -> str:
    """TTGIR with one wait behind every run of products."""
    lines = text.split("\n")
    for run in reversed(_runs(lines)):
        if (made := _joined(lines, run)) is not None:
            lines = made
    return "\n".join(lines)


def _runs(lines: Sequence[str]) -> list[_Run]:
    found: list[_Run] = []
    run: _Run | None = None
    for i, line in enumerate(lines):
        if (dot := _DOT.fullmatch(line)) is not None:
            if run is None:
                run = _Run(i, i, [], {})
                found.append(run)
            run.dots.append(dot)
            run.stop = i + 1
        elif run is not None and (wait := _WAIT.fullmatch(line)) and wait["dot"] == run.dots[-1]["out"]:
            run.waited[wait["out"]] = wait["dot"]
            run.stop = i + 1
        elif not _FENCE.fullmatch(line):
            run = None
    return [r for r in found if len(r.dots) > 1]


def _joined(lines: Sequence[str], run: _Run) -> list[str] | None:
    """The lines with one wait; None where the run has another form."""
    if run.start == 0 or not _FENCE.fullmatch(lines[run.start - 1]):
        return None
    own = {d["out"] for d in run.dots}
    sums = [_plain(d["sums"], run) for d in run.dots]
    if any(_plain(d[k], run) in own for d in run.dots for k in ("a", "b")):
        return None
    added = [s for s in sums if s in own]
    rest = "\n".join(lines[run.stop :])
    # sums that a later product takes are read by nothing else; of waits only the sums are used
    if len(set(added)) != len(added) or any(uses(rest, s) for s in added):
        return None
    if any(re.search(re.escape(w) + r"(#[1-9]|(?![\w#]))", rest) for w in run.waited):
        return None
    for wait, dot in run.waited.items():
        if dot in added and uses(rest, f"{wait}#0"):
            return None
    made = []
    for d, s in zip(run.dots, sums, strict=True):
        attrs = [x for x in re.split(r",\s*", d["attrs"] or "") if x and not x.startswith("isAsync")]
        made.append(
            f"{d['pad']}{d['out']} = ttng.warp_group_dot {d['a']}, {d['b']}, {s} "
            f"{{{', '.join((*attrs, 'isAsync = true'))}}} : "
            f"{d['ta']} * {d['tb']} -> {d['type']}"
        )
    results = [d for d in run.dots if d["out"] not in added]
    held = {d[k]: d[t] for d in run.dots for k, t in (("a", "ta"), ("b", "tb"))}
    values = [*((d["out"], d["type"]) for d in results), *held.items()]
    pad, name = run.dots[0]["pad"], f"%chain{run.start}"
    wait = (
        f"{pad}{name}:{len(values)} = ttng.warp_group_dot_wait {', '.join(v for v, _ in values)} "
        f"{{pendings = 0 : i32}} : {', '.join(t for _, t in values)}"
    )
    names = {d["out"]: f"{name}#{k}" for k, d in enumerate(results)}
    names |= {f"{w}#0": names[of] for w, of in run.waited.items() if of in names}
    pattern = re.compile("(" + "|".join(map(re.escape, names)) + r")(?![\w#])")
    # what follows and reads no sum is done while they are made; buffers that are read live until the wait
    at = run.stop
    while lines[at].startswith(pad + "%") and not pattern.search(lines[at]) and not _BLOCK.search(lines[at]):
        at += 1
    made += [*lines[run.stop : at], wait]
    return [*lines[: run.start], *made, *(pattern.sub(lambda m: names[m[0]], x) for x in lines[at:])]


def _plain(value: str, run: _Run) -> str:
    """The product that a wait of the run gives."""
    return run.waited.get(value.removesuffix("#0"), value) if value.endswith("#0") else value


def uses(text: str, value: str) -> bool:
    """Whether a value is named in TTGIR text."""
    return re.search(re.escape(value) + r"(?![\w#])", text) is not None
