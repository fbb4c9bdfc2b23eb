"""Edits between the stages of Triton's compiler, through its inspection hook.

Near copies. Triton 3.6 writes every asynchronous copy of 16 bytes as one that bypasses L1 (cp.async.cg), whatever the
load asks for.

Late sums. On sm_90 products are asynchronous; a pipelined loop whose sums are float32 waits, in a step, for the
products of the step before, so that the tensor cores always have work, but one whose sums are integers waits for its
own (the pass refuses: "the accumulator is not fp32"; 3.6 and 3.9). Copies overwrite only what the step before read, in
both kinds of loops, so integers may be waited for as late as floats: a step later, and before whatever uses the sums.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from temper.compile.triton_chains import chained_sums, uses

#: The wait of a loop's step, with its sums, operands and types.
_WAIT = re.compile(
    r"(?P<pad> *)(?P<out>%\w+):3 = ttng\.warp_group_dot_wait (?P<dot>%\w+), (?P<a>%[\w#]+), (?P<b>%[\w#]+)"
    r" \{pendings = 0 : i32\} : (?P<sums>tensor<\w+xi32, #\w+>), "
    r"(?P<read>!ttg\.memdesc<.*>, !ttg\.memdesc<[^()]*>)( loc\(.*)?"
)
_DOT = r" *{dot} = ttng\.warp_group_dot {a}, {b}, (?P<sums>%\w+)( \{{|, %\w+ \{{).*\bisAsync = true\b.*"
_FOR = re.compile(r" *(?P<out>%\w+)(?P<many>:\d+)? = scf\.for .* iter_args\((?P<carried>.*?)\) -> .*\{")
_IF = re.compile(r" *(%\w+(:\d+)? = )?scf\.if .*\{")
_CHOICE = re.compile(r" *(?P<out>%\w+) = arith\.select %\w+, %\w+, (?P<sums>%[\w#]+) : .*")


def hook(near: bool, late: bool, chained: bool = False) -> Callable[..., Any]:
    """Triton's hook on its stages (`knobs.runtime.add_stages_inspection_hook`). Called without arguments, for a name
    and a digest of what it does; else with the backend, the stages by name, options, language and capability."""
    name = f"{'near' * near}{'late' * late}{'chained' * chained}"

    def change(*state: Any) -> Any:
        if not state:
            return name, name
        stages = state[1]
        if near:
            stages["ptx"] = _near(stages["ptx"])
        if late:
            stages["ttgir"] = _edited(stages["ttgir"], late_sums)
        if chained:
            stages["ttgir"] = _edited(stages["ttgir"], chained_sums)
        return None

    return change


def _near(made: Callable[..., Any]) -> Callable[..., Any]:
    def ptx(source: Any, metadata: Any) -> str:
        return str(made(source, metadata)).replace("cp.async.cg.shared.global", "cp.async.ca.shared.global")

    return ptx


def _edited(made: Callable[..., Any], change: Callable[[str], str]) -> Callable[..., Any]:
    def ttgir(source: Any, metadata: Any) -> Any:
        from triton._C.libtriton import ir

        module = made(source, metadata)
        text = str(module)
        if (changed := change(text)) == text:
            return module
        with tempfile.TemporaryDirectory(prefix="temper-triton-") as folder:
            path = Path(folder) / "late.ttgir"
            path.write_text(changed)
            parsed = ir.parse_mlir_module(str(path), module.context)
        parsed.context = module.context
        return parsed

    return ttgir


def late_sums(text: str) -> str:
    """TTGIR in which loops of products of integers wait for the sums of the step before; loops of any other form than
    the pipeline's are left as they are."""
    lines = text.split("\n")
    for number, line in enumerate([line for line in lines if _WAIT.fullmatch(line)]):
        if line not in lines:  # its neighbour's has taken its place
            continue
        at = lines.index(line)
        changed = _two(lines, at, f"%late{number}") or _loop(lines, at, f"%late{number}")
        if changed is not None:
            lines = changed
    return "\n".join(lines)


def _loop(lines: list[str], at: int, name: str) -> list[str] | None:
    """The lines with the wait at `at` put off; None where its loop is of another form. name: of the sums waited for."""
    found = _WAIT.fullmatch(lines[at])
    assert found is not None
    pad, out, a, b, sums = (found[k] for k in ("pad", "out", "a", "b", "sums"))
    start, end = _around(lines, at, pad)
    loop = _FOR.fullmatch(lines[start]) if start >= 0 else None
    dot = re.fullmatch(_DOT.format(dot=re.escape(found["dot"]), a=re.escape(a), b=re.escape(b)), lines[at - 1])
    if loop is None or end < 0 or dot is None or any(_loops(lines[i]) for i in range(start + 1, end)):
        return None
    body = range(start + 1, end)
    if not all(_copied(lines, body, operand) for operand in (a, b)):
        return None
    carried = [part.split(" = ")[0].strip() for part in loop["carried"].split(",")]
    given = [v.strip() for v in lines[end - 1].partition("scf.yield")[2].partition(" : ")[0].split(",")]
    # what the next step begins with: the sums, or others where a tile is done
    kept = {f"{out}#0"} | {m["out"] for i in body if (m := _CHOICE.fullmatch(lines[i])) and m["sums"] == f"{out}#0"}
    places = [i for i, v in enumerate(given) if v in kept]
    if len(places) != 1 or len(given) != len(carried) or carried[places[0]] != dot["sums"]:
        return None
    if any(uses(lines[i], dot["sums"]) for i in body if i != at - 1):
        return None
    wait = f"ttng.warp_group_dot_wait {{}}{{}} {{{{pendings = 0 : i32}}}} : {sums}{{}}"
    made: list[str] = lines[: at] + [lines[at].replace("pendings = 0", "pendings = 1")]
    inside, used = "", 0
    for i in range(at + 1, end):
        line = lines[i]
        if line.startswith(pad + "}"):
            inside = ""
        if uses(line, f"{out}#0"):
            if inside:
                line = _renamed(line, f"{out}#0", f"{inside}#0")
            elif not (_CHOICE.fullmatch(line) or i == end - 1):
                return None
        made.append(line)
        if _IF.fullmatch(line) and len(line) - len(line.lstrip()) == len(pad):
            stop = next(k for k in range(i + 1, end) if lines[k].startswith(pad + "}"))
            if any(uses(lines[k], f"{out}#0") for k in range(i + 1, stop)):
                used += 1
                inside = f"{name}_{used}"
                made.append(f"{pad}  {inside}:3 = " + wait.format(f"{out}#0", f", {a}, {b}", f", {found['read']}"))
    last = f"{loop['out']}#{places[0]}" if loop["many"] else loop["out"]
    made += [lines[end], f"{pad[2:]}{name} = " + wait.format(last, "", "")]
    return made + [_renamed(line, last, name) for line in lines[end + 1 :]]


def _two(lines: list[str], at: int, name: str) -> list[str] | None:
    """The lines with the wait at `at`, and the next product's, put off; None where the loop has no two products that
    only add to sums of their own."""
    if at + 3 >= len(lines):
        return None
    second = at + 1 + ("fence_async_shared" in lines[at + 1])  # nothing is written between the products
    waits = [_WAIT.fullmatch(lines[i]) for i in (at, second + 1)]
    if waits[0] is None or waits[1] is None:
        return None
    pad, dots = waits[0]["pad"], []
    start, end = _around(lines, at, pad)
    loop = _FOR.fullmatch(lines[start]) if start >= 0 else None
    if loop is None or end < 0 or not loop["many"]:
        return None
    body = [i for i in range(start + 1, end) if not at - 1 <= i <= second + 1]
    carried = [part.split(" = ")[0].strip() for part in loop["carried"].split(",")]
    given = [v.strip() for v in lines[end - 1].partition("scf.yield")[2].partition(" : ")[0].split(",")]
    places: list[int] = []
    for wait, line in zip(waits, (lines[at - 1], lines[second]), strict=True):
        assert wait is not None
        names = {k: re.escape(wait[k]) for k in ("dot", "a", "b")}
        dot = re.fullmatch(_DOT.format(**names), line)
        place = [i for i, v in enumerate(given) if v == f"{wait['out']}#0"]
        if dot is None or len(place) != 1 or carried[place[0]] != dot["sums"]:
            return None
        if any(uses(lines[i], dot["sums"]) for i in body):
            return None
        if any(re.search(rf"{wait['out']}\b", lines[i]) for i in body[:-1]):
            return None
        if not all(_copied(lines, range(start + 1, end), wait[k]) for k in ("a", "b")):
            return None
        dots.append(wait)
        places += place
    if any(_loops(lines[i]) for i in body):
        return None
    held = {d["dot"]: d["sums"] for d in dots}
    for d in dots:
        held |= dict(zip((d["a"], d["b"]), re.findall(r"!ttg\.memdesc<.*?>", d["read"]), strict=True))
    wait_text = "ttng.warp_group_dot_wait {} {{pendings = {} : i32}} : {}"
    inside = f"{pad}{name}_own:{len(held)} = " + wait_text.format(", ".join(held), 2, ", ".join(held.values()))
    ends = lines[end - 1]
    for i, d in enumerate(dots):
        ends = _renamed(ends, f"{d['out']}#0", f"{name}_own#{i}")
    lasts = [f"{loop['out']}#{i}" for i in places]
    kinds = ", ".join(d["sums"] for d in dots)
    last = f"{pad[2:]}{name}:2 = " + wait_text.format(", ".join(lasts), 0, kinds)
    made = [*lines[:at], lines[second], inside, *lines[second + 2 : end - 1], ends, lines[end], last]
    after = lines[end + 1 :]
    for i, value in enumerate(lasts):
        after = [_renamed(line, value, f"{name}#{i}") for line in after]
    return made + after


def _around(lines: list[str], at: int, pad: str) -> tuple[int, int]:
    """First and last line of the loop around a line of its body; -1 where there is none."""
    start = next((i for i in range(at, -1, -1) if lines[i].startswith(pad[2:] + "%") and "scf.for" in lines[i]), -1)
    return start, next((i for i in range(at, len(lines)) if lines[i].startswith(pad[2:] + "}")), -1)


def _loops(line: str) -> bool:
    return "scf.for" in line or "scf.while" in line


def _copied(lines: list[str], body: range, operand: str) -> bool:
    """An operand is one of several buffers that the loop goes through, perhaps seen transposed."""
    for _ in range(4):
        text = next((lines[i].strip() for i in body if lines[i].strip().startswith(f"{operand} = ")), "")
        if " = ttg.memdesc_index " in text:
            return True
        if not (found := re.match(r"%\w+ = ttg\.memdesc_(?:trans|reshape) (%[\w#]+) ", text)):
            return False
        operand = found[1]
    return False


def _renamed(line: str, value: str, name: str) -> str:
    return re.sub(re.escape(value) + r"(?![\w#])", name, line)
