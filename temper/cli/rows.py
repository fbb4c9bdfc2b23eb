"""A plan's build report as JSON-able rows: layers, tactics, memory, and reasons for what did not happen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from temper.cli.roofline import kernels_of, multiplied_in, roof_of
from temper.plan.format import Plan, Profile, value_of
from temper.plan.memory import lower_bound
from temper.runtime.engine import check_machine


def regions_of(plan: Plan, profile: int) -> list[tuple[int, Mapping[str, Any]]]:
    """Rows of the build report that belong to a profile's program, with their numbers."""
    return [(i, r) for i, r in enumerate(plan.report.get("regions", [])) if r.get("profile", 0) == profile]


def sizes_text(profile: Profile) -> str:
    """`N 1:8:32, S 128`: a profile's ranges, and a single number where it has one size."""
    return ", ".join(
        f"{k} {v[0]}" if v[0] == v[2] else f"{k} {v[0]}:{v[1]}:{v[2]}" for k, v in sorted(profile.symbols.items())
    )


#: ops that multiply and add: those that INT8 is about
_PRODUCTS = frozenset({"Conv", "MatMul", "ConvTranspose", "MatMulInteger", "ConvInteger", "Attention"})
#: rules that say why a layer of a quantized model is not computed on codes
_INTEGER_RULES = ("integer product", "integer attention")


def precision_of(op: str) -> str:
    """What a region multiplies: "int8", "bfloat16" or "float"; "" where it is not a product."""
    for suffix, name in (("Int8", "int8"), ("Bfloat16", "bfloat16")):
        if op.endswith(suffix):
            return name
    return "float" if op in _PRODUCTS else ""


def reasons_for_float(plan: Plan) -> dict[str, str]:
    """Of every product of a quantized model that is not computed on codes: why. Empty where nothing is quantized."""
    rows = plan.report.get("regions", [])
    if not any(precision_of(r["op"]) == "int8" for r in rows):
        return {}
    found = {node: why for rule, node, why in plan.report.get("declined", []) if rule in _INTEGER_RULES}
    out = {}
    for r in rows:
        if precision_of(r["op"]) not in ("", "int8"):
            why = next((found[n] for n in (r["name"], *r["origin"]) if n in found), "")
            out[r["name"]] = why or "nothing of it is quantized"
    return out


def layer_rows(plan: Plan) -> list[dict[str, Any]]:
    """A row a region: profile, name, ops, outputs, operations, bytes, tactic, seconds as tuned (None if untimed),
    GFLOPS, share of its profile's seconds, what it multiplies, and why not codes in a quantized model. Of a GPU plan
    also its kernels, the roofline's least seconds, what bounds them, and how many times as long it takes.
    """
    floats = reasons_for_float(plan)
    roof, kernels = roof_of(plan), kernels_of(plan)
    totals = [sum(r.get("seconds") or 0.0 for _, r in regions_of(plan, k)) for k in range(len(plan.profiles))]
    rows = []
    for number, r in enumerate(plan.report.get("regions", [])):
        seconds, total, product = r.get("seconds"), totals[r.get("profile", 0)], precision_of(r["op"])
        device: dict[str, Any] = {}
        if plan.device == "cuda":
            floor, bound = (None, "")
            if roof is not None and r["tactic"] != "host":
                floor, bound = roof.floor(r["bytes"], r["operations"], multiplied_in(r))
            of_floor = seconds / floor if seconds and floor else None
            device = {"kernels": kernels.get(number, []), "floor": floor, "bound": bound, "of_floor": of_floor}
        rows.append(
            {
                "profile": r.get("profile", 0),
                "name": r["name"],
                "ops": r["nodes"],
                "origin": r["origin"],
                "outputs": r["outputs"],
                "operations": r["operations"],
                "bytes": r["bytes"],
                "tactic": r["tactic"],
                "seconds": seconds,
                "gflops": r["operations"] / seconds / 1e9 if seconds else None,
                "share": seconds / total if seconds and total else None,
                "reason": r.get("reason", ""),
                "precision": multiplied_in(r) if product and plan.device == "cuda" else product,
                "why_float": floats.get(r["name"], ""),
                **device,
            }
        )
    return rows


def tactic_rows(plan: Plan, everything: bool) -> list[dict[str, Any]]:
    """A row a distinct workload and size it was tuned at: its layers, every trial (label, seconds or None, note), the
    winner first.
    """
    by_key: dict[tuple[int, str, str], dict[str, Any]] = {}
    for r in plan.report.get("regions", []):
        sizes = ", ".join(f"{k} = {v}" for k, v in r.get("sizes", {}).items())
        row = by_key.setdefault(
            (r.get("profile", 0), r["workload"], sizes),
            {
                "profile": r.get("profile", 0),
                "workload": r["workload"],
                "sizes": sizes,
                "op": r["op"],
                "layers": [],
                "chosen": r["tactic"],
                "reason": r.get("reason", ""),
                "trials": [],
                "other_ops": 0,
            },
        )
        row["layers"].append(r["name"])
        if len(row["layers"]) == 1:
            trials = [
                {"tactic": label, "seconds": seconds or None, "note": note}
                for label, seconds, note in r.get("trials", [])
            ]
            # tactics that compute other ops altogether are counted, not listed
            other = (f", not {r['op']}", f"does not compute {r['op']}", "other op")
            kept = [
                t
                for t in trials
                if everything or not (t["note"].startswith("declined: ") and t["note"].endswith(other))
            ]
            row["other_ops"] = len(trials) - len(kept)
            row["trials"] = sorted(
                kept, key=lambda t: (t["tactic"] != r["tactic"], t["seconds"] is None, t["seconds"] or 0.0)
            )
    return list(by_key.values())


def memory_rows(plan: Plan) -> list[dict[str, Any]]:
    """An entry a profile: arena and its lower bound, and every buffer with bytes, offset and lifetime."""
    out = []
    for p in plan.profiles:
        rows = arena_rows(plan, p)
        spans = [span for _, span, _ in rows]
        out.append(
            {
                "symbols": {k: list(v) for k, v in p.symbols.items()},
                "arena": p.arena_bytes,
                "lower_bound": lower_bound(spans),
                "sum": sum(s for s, _, _ in spans),
                "workspace_per_thread": p.workspace_bytes,
                "shared_workspace": p.shared_bytes,
                "buffers": [
                    {"name": name, "bytes": n, "offset": at, "first": first, "last": last}
                    for name, (n, first, last), at in rows
                ],
            }
        )
    return out


def arena_rows(plan: Plan, profile: Profile) -> list[tuple[str, tuple[int, int, int], int]]:
    """The buffers of a profile's program: name, (bytes, first step, last step) at its maximum, and offset."""
    env = {name: high for name, (_, _, high) in profile.symbols.items()}
    return [
        (b.name, (value_of(b.bytes, env), b.first, b.last), at)
        for b, at in zip(plan.buffers, profile.offsets, strict=True)
        if at >= 0
    ]


def reason_rows(plan: Plan) -> list[dict[str, Any]]:
    """What did not happen: (what, why, where), the same reason at several places once."""
    found: dict[tuple[str, str], list[str]] = {}
    wording: dict[tuple[str, str], set[str]] = {}
    for rule, node, reason in plan.report.get("declined", []):
        if rule != "compile":  # told by the host steps below
            # names and types of other tensors in a reason would keep equal reasons apart
            key = (rule, re.sub(r"'[^']*'|%\S+(?=: )|\w+\[[^\]]*\]", "...", reason))
            found.setdefault(key, []).append(node)
            wording.setdefault(key, set()).add(reason)
    for r in plan.report.get("regions", []):
        if r["tactic"] == "host":
            where = found.setdefault(("run on the host", r["reason"]), [])
            where += [r["name"]] if r["name"] not in where else []  # once, however many profiles have it
        elif r["nodes"] == ["Identity"]:
            found.setdefault(("avoid a copy", "the tensor needs a buffer of its own here"), []).append(r["name"])
    for m in plan.report.get("memory", []):
        if m["arena"] > m["lower_bound"]:
            found[("reach the memory bound", f"arena {m['arena']} bytes, bound {m['lower_bound']}")] = [
                plan.report.get("model", "")
            ]
    for remark in check_machine(plan):
        found[("be tuned for this machine", remark)] = [plan.report.get("model", "")]
    order = (
        "run on the host",
        "avoid a copy",
        "concat without a copy",
        "split without a copy",
        "fuse epilogue",
        "fuse",
        "be tuned for this machine",
        "reach the memory bound",
    )
    rows = [
        {"what": key[0], "why": next(iter(w)) if len(w := wording.get(key, {key[1]})) == 1 else key[1], "where": where}
        for key, where in found.items()
    ]
    return sorted(
        rows,
        key=lambda r: (
            order.index(r["what"]) if r["what"] in order else len(order),
            r["what"],
            -len(r["where"]),
            r["why"],
        ),
    )
