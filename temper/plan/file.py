"""Reads and writes plans: as files and as bytes.

The manifest section is JSON, constants are mapped and used in place; container.py has the file's layout and
checksums. Equal plans encode to equal bytes: no times, no paths, sorted keys.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Mapping, Sequence
from typing import Any

from temper.errors import BuildError, PlanError
from temper.plan.container import FORMAT_VERSION, Buffer, map_file, pieces, sections, write_file
from temper.plan.format import (
    REF_KINDS,
    ArenaBuffer,
    Binding,
    Copy,
    HostStep,
    Launch,
    Native,
    Plan,
    Profile,
    Ref,
    Segment,
    Slot,
    SubProgram,
    TypedRef,
)


def _ref(r: Ref) -> list[Any]:
    return [REF_KINDS.index(r.kind), r.index, r.offset]


def _ref_back(v: Sequence[Any]) -> Ref:
    return Ref(REF_KINDS[v[0]], v[1], v[2])


def _typed(t: TypedRef | None) -> list[Any] | None:
    return None if t is None else [_ref(t.ref), t.dtype, list(t.shape)]


def _typed_back(v: Sequence[Any]) -> TypedRef:
    return TypedRef(_ref_back(v[0]), v[1], tuple(v[2]))


def _segment(s: Segment) -> dict[str, Any]:
    if isinstance(s, Native):
        return {
            "native": [
                [
                    list(x.entries),
                    [_ref(a) for a in x.args],
                    list(x.symbols),
                    x.parts,
                    x.barrier,
                    list(x.writes),
                    x.name,
                    x.report,
                    x.work,
                    list(x.scratch),
                    x.grid,
                ]
                for x in s.launches
            ]
        }
    return {
        "host": [
            s.op,
            dict(s.attrs),
            [_typed(t) for t in s.inputs],
            [_typed(t) for t in s.outputs],
            s.reason,
            s.name,
            s.report,
            list(s.binds),
            list(s.subs),
        ]
    }


def _segment_back(v: Mapping[str, Any]) -> Segment:
    if "native" in v:
        return Native(
            tuple(
                Launch(
                    tuple(entries),
                    tuple(map(_ref_back, args)),
                    tuple(symbols),
                    parts,
                    barrier,
                    tuple(writes),
                    name,
                    report,
                    work,
                    tuple(scratch),
                    grid,
                )
                for entries, args, symbols, parts, barrier, writes, name, report, work, scratch, grid in v["native"]
            )
        )
    op, attrs, ins, outs, reason, name, report, binds, subs = v["host"]
    return HostStep(
        op,
        attrs,
        tuple(None if t is None else _typed_back(t) for t in ins),
        tuple(map(_typed_back, outs)),
        reason,
        name,
        report,
        tuple(binds),
        tuple(subs),
    )


def _json(v: Any) -> bytes:
    return json.dumps(v, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _bindings(bindings: Sequence[Binding]) -> list[Any]:
    return [[b.name, b.dtype, list(b.shape)] for b in bindings]


def _bindings_back(v: Sequence[Any]) -> tuple[Binding, ...]:
    return tuple(Binding(n, d, tuple(s)) for n, d, s in v)


def _slots(slots: Sequence[Slot]) -> list[Any]:
    return [[s.name, s.dtype, list(s.shape), s.last] for s in slots]


def _slots_back(v: Sequence[Any]) -> tuple[Slot, ...]:
    return tuple(Slot(n, d, tuple(s), last) for n, d, s, last in v)


def _profile(f: Profile) -> list[Any]:
    symbols = {k: list(v) for k, v in f.symbols.items()}
    return [symbols, list(f.offsets), f.arena_bytes, f.workspace_bytes, f.shared_bytes, f.program]


def _profile_back(v: Sequence[Any]) -> Profile:
    s, o, a, w, sh, pr = v
    return Profile({k: (x[0], x[1], x[2]) for k, x in s.items()}, tuple(o), a, w, sh, pr)


def _manifest(p: Plan) -> bytes:
    return _json(
        {
            "fingerprint": dict(p.fingerprint),
            "isa": p.isa,
            "needs": sorted(p.needs),
            "threads": p.threads,
            "host_abi": p.host_abi,
            "device": p.device,
            "inputs": _bindings(p.inputs),
            "outputs": _bindings(p.outputs),
            "profiles": [_profile(f) for f in p.profiles],
            "buffers": [[b.name, b.bytes, b.first, b.last] for b in p.buffers],
            "programs": [[_segment(s) for s in program] for program in p.programs],
            "copies": [[c.output, _ref(c.source)] for c in p.copies],
            "slots": _slots(p.slots),
            "subs": [
                [
                    s.name,
                    list(s.symbols),
                    _bindings(s.inputs),
                    _bindings(s.outputs),
                    _profile(s.profile),
                    [[b.name, b.bytes, b.first, b.last] for b in s.buffers],
                    [_segment(x) for x in s.segments],
                    _slots(s.slots),
                ]
                for s in p.subs
            ],
        }
    )


def _plan(sections: Mapping[str, memoryview], version: int) -> Plan:
    m = json.loads(bytes(sections["manifest"]))
    return Plan(
        m["fingerprint"],
        m["isa"],
        tuple(m["needs"]),
        m["threads"],
        _bindings_back(m["inputs"]),
        _bindings_back(m["outputs"]),
        tuple(map(_profile_back, m["profiles"])),
        tuple(ArenaBuffer(*b) for b in m["buffers"]),
        tuple(tuple(_segment_back(s) for s in program) for program in m["programs"]),
        sections["constants"],
        sections["kernels"],
        sections["host"],
        tuple(Copy(o, _ref_back(r)) for o, r in m["copies"]),
        _slots_back(m["slots"]),
        tuple(
            SubProgram(
                name,
                tuple(symbols),
                _bindings_back(ins),
                _bindings_back(outs),
                _profile_back(profile),
                tuple(ArenaBuffer(*b) for b in buffers),
                tuple(map(_segment_back, segments)),
                _slots_back(slots),
            )
            for name, symbols, ins, outs, profile, buffers, segments, slots in m["subs"]
        ),
        json.loads(bytes(sections["report"])),
        sections["graph"],
        m["host_abi"],
        m["device"],
        version,
    )


# ---- files


def _content(plan: Plan) -> dict[str, Buffer]:
    if plan.version != FORMAT_VERSION:
        raise BuildError(f"this Temper writes plan format {FORMAT_VERSION}, not {plan.version}")
    return {
        "manifest": _manifest(plan),
        "report": _json(dict(plan.report)),
        "host": plan.host,
        "kernels": plan.kernels,
        "graph": plan.graph,
        "constants": plan.constants,
    }


def to_bytes(plan: Plan) -> bytes:
    """The whole file as bytes; equal plans give equal bytes."""
    return b"".join(pieces(_content(plan)))


def write(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write atomically: a temporary file beside `path`, fsync, rename. BuildError if that fails; no half-written
    file.
    """
    write_file(_content(plan), path)


def _parse(data: memoryview, name: str, strong: bool = False) -> Plan:
    version, found = sections(data, name, strong)
    try:
        return _plan(found, version)
    except (ValueError, KeyError, IndexError, TypeError) as e:
        raise PlanError(
            f"{name}: section 'manifest' contradicts itself ({type(e).__name__}: {e}); build the plan anew"
        ) from e


def read(path: str | os.PathLike[str]) -> Plan:
    """Map a plan and check every section's CRC. PlanError names the file, the section and what to do."""
    return _parse(map_file(path), os.fspath(path))


def from_bytes(data: Buffer, name: str = "plan") -> Plan:
    """A plan from the bytes of its file; constants are copied to an aligned address. PlanError as for `read`."""
    aligned = mmap.mmap(-1, max(1, len(data)))
    aligned[: len(data)] = data
    return _parse(memoryview(aligned)[: len(data)].toreadonly(), name)


def verify(path: str | os.PathLike[str]) -> Plan:
    """As `read`, and every section's SHA-256 is checked too."""
    return _parse(map_file(path), os.fspath(path), strong=True)
