"""The summary of a build, from the plan and its report: shown at the end of `temper build` and by `temper inspect`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from temper.cli.rows import precision_of, reasons_for_float, regions_of
from temper.cli.show import facts, size, span
from temper.plan.format import Plan


def summarize(plan: Plan, file_bytes: int, seconds: Mapping[str, float] | None = None) -> dict[str, Any]:
    """JSON-able; regions, tactics and work are the first profile's. seconds: wall time by stage and cache hits and
    misses, of a build just made."""
    report = plan.report
    rows = [r for _, r in regions_of(plan, 0)]
    hosts = {r["name"]: r for r in report.get("regions", []) if r["tactic"] == "host"}.values()
    out: dict[str, Any] = {
        "model": report.get("model", ""),
        "inputs": [[b.name, b.dtype, list(b.shape)] for b in plan.inputs],
        "outputs": [[b.name, b.dtype, list(b.shape)] for b in plan.outputs],
        "profiles": [{k: list(v) for k, v in p.symbols.items()} for p in plan.profiles],
        "threads": plan.threads,
        "isa": plan.isa,
        "effort": report.get("effort"),
        "device": plan.device,
        "precision": _precision(plan),
        "tuned_on": plan.fingerprint.get("gpu" if plan.device == "cuda" else "cpu", ""),
        "nodes": report.get("nodes"),
        "regions": len(rows),
        "regions_by_op": dict(Counter(r["op"] for r in rows).most_common()),
        "fused": dict(Counter("+".join(r["nodes"]) for r in rows if len(r["nodes"]) > 1).most_common()),
        "rules_applied": dict(Counter(rule for rule, _ in report.get("applied", [])).most_common()),
        "tactics": dict(Counter(r["tactic"].split(" ")[0] for r in rows).most_common()),
        "operations": sum(r["operations"] for r in rows),
        "tuned_seconds": sum(r.get("seconds") or 0.0 for r in rows),
        "work_by_profile": [
            {
                "operations": sum(r["operations"] for _, r in regions_of(plan, k)),
                "tuned_seconds": sum(r.get("seconds") or 0.0 for _, r in regions_of(plan, k)),
            }
            for k in range(len(plan.profiles))
        ],
        "views": report.get("views", 0),
        "in_place": len(report.get("in_place", [])),
        "host_steps": [[r["name"], r["op"], r["reason"]] for r in hosts],
        "memory": report.get("memory", []),
        "weights_bytes": len(plan.constants),
        "plan_bytes": file_bytes,
    }
    if "int8" in report:
        out["int8"] = report["int8"]
    else:
        out["codes"] = _codes(plan, rows)
    if seconds is not None:
        out["seconds"] = {k: v for k, v in seconds.items() if not k.startswith("cache_")}
        out["cache"] = {k: int(v) for k, v in seconds.items() if k.startswith("cache_")}
    return out


def _precision(plan: Plan) -> str:
    """Of what tensors are stored in and products multiply, but for layers in INT8 and those kept wider."""
    name = plan.report.get("precision", "fp32")
    return "tf32" if name == "fp32" and plan.device == "cuda" and plan.report.get("tf32", False) else str(name)


def _codes(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of a model that was quantized before: its products on codes and in all, their share of the work, and why others
    are not. Empty where nothing is quantized."""
    work = {k: [r["operations"] for r in rows if precision_of(r["op"]) == k] for k in ("int8", "bfloat16", "float")}
    if not work["int8"]:
        return {}
    products = [n for found in work.values() for n in found]
    # names of tensors in a reason would keep equal reasons apart
    floats = Counter(re.sub(r"'[^']*'", "...", why) for why in reasons_for_float(plan).values())
    return {
        "int8": len(work["int8"]),
        "products": len(products),
        "share": sum(work["int8"]) / (sum(products) or 1),
        "float": dict(floats.most_common()),
    }


def _work(work: Mapping[str, Any]) -> str:
    seconds = work["tuned_seconds"]
    return f" ({work['operations'] / 1e9:.3g} GFLOP, {span(seconds)} as tuned)" if seconds else ""


def binding_text(name: str, dtype: str, shape: list[Any]) -> str:
    return f"{name}: {dtype}[{', '.join(map(str, shape))}]"


def summary_table(s: Mapping[str, Any]) -> Any:
    """The same as lines for people."""

    def counts(pairs: Mapping[str, int], most: int = 8) -> str:
        shown = [f"{n} {name}" for name, n in list(pairs.items())[:most]]
        rest = sum(list(pairs.values())[most:])
        return ", ".join([*shown, f"{rest} others"] if rest else shown) or "none"

    rows: list[tuple[str, object]] = [
        ("inputs", "; ".join(binding_text(*b) for b in s["inputs"])),
        ("outputs", "; ".join(binding_text(*b) for b in s["outputs"])),
    ]
    for k, p in enumerate(s["profiles"]):
        if p:
            sizes = ", ".join(f"{name} {v[0]}:{v[1]}:{v[2]}" for name, v in p.items())
            rows.append((f"profile {k}", sizes + _work(s["work_by_profile"][k])))
    threads = f"{s['threads']} thread{'s' * (s['threads'] != 1)}"
    where = f"{s['tuned_on']}, {s['isa']}, {threads}, effort {s['effort']}"
    if s["device"] == "cuda":
        where = f"{s['tuned_on'] or 'a GPU that was not here'}, {s['isa']}, {s['precision']}, effort {s['effort']}"
    rows.append(("built for", where))
    if s["nodes"]:
        rows.append(("graph", f"{s['nodes'][0]} nodes read, {s['nodes'][1]} after rewriting, {s['regions']} regions"))
    rows += [
        ("regions", counts(s["regions_by_op"], 12)),
        ("fused", counts(s["fused"])),
        ("rules", counts(s["rules_applied"])),
        ("tactics", counts(s["tactics"])),
    ]
    if s["tuned_seconds"]:
        rate = s["operations"] / s["tuned_seconds"] / 1e9
        shown = f"{rate:,.0f}" if rate >= 1000 else f"{rate:.3g}"
        rows.append(
            ("work", f"{s['operations'] / 1e9:.3g} GFLOP, {span(s['tuned_seconds'])} as tuned ({shown} GFLOPS)")
        )
    else:
        rows.append(("work", f"{s['operations'] / 1e9:.3g} GFLOP, not timed (effort 0)"))
    rows.append(("no copies", f"{s['views']} views into wider tensors, {s['in_place']} results in place"))
    for m in s["memory"]:
        over = f", {m['arena'] / m['lower_bound']:.3f}x the lower bound" if m["lower_bound"] else ""
        rows.append(("arena", f"{size(m['arena'])}{over}"))
    rows += [("weights", size(s["weights_bytes"])), ("plan", size(s["plan_bytes"]))]
    if "int8" in s:
        rows += int8_rows(s["int8"])
    elif s["codes"]:
        c = s["codes"]
        rows.append(("INT8", f"{c['int8']} of {c['products']} products, {100 * c['share']:.3g} % of their work"))
        rows += [("in float", f"{count}: {why}") for why, count in c["float"].items()]
    for reason, count in Counter(f"{op}: {why}" for _, op, why in s["host_steps"]).items():
        rows.append(("on the host", f"{count} {reason}"))
    if "seconds" in s:
        total = sum(s["seconds"].values())
        rows.append(
            ("time", f"{total:.1f} s: " + ", ".join(f"{k} {v:.2g} s" for k, v in s["seconds"].items() if v >= 0.005))
        )
        hits, misses = s["cache"]["cache_hits"], s["cache"]["cache_misses"]
        rows.append(("timing cache", f"{hits} hits, {misses} misses"))
    return facts(rows)


def _change(ms: float) -> str:
    return f"{'-' if ms < 0 else '+'}{span(abs(ms) / 1e3)}"


def int8_rows(s: Mapping[str, Any]) -> list[tuple[str, object]]:
    """What is in INT8 or FP8, what was kept in float and why, and what that costs."""
    speed = ""
    if s["ms"] and s["float_ms"]:
        quick, slow = span(s["ms"] / 1e3), span(s["float_ms"] / 1e3)
        speed = f"; {quick}, {s['float_ms'] / s['ms']:.2f}x as fast as FP32 ({slow})"
    word = "FP8" if s.get("form") == "float8" else "INT8"
    rows: list[tuple[str, object]] = [(word, f"{s['int8']} of {s['sites']} layers{speed}")]
    if s["kept"]:
        if s["ms"] and s["all_int8_ms"]:
            count = s["sites"] - s["int8"]
            cost = _change(s["ms"] - s["all_int8_ms"])
            eights = f", {s['eights']} of them 8-bit (E4M3)" if s.get("eights") else ""
            rows.append(("kept in float", f"{count} layer{'s' * (count > 1)}{eights}, {cost}"))
        for k in s["kept"][:12]:
            cost = "" if k["ms"] is None else f" ({_change(k['ms'])})"
            rows.append(("", f"{k['name']}{cost}: {k['why']}"))
        if s["sites"] - s["int8"] > 12:
            rows.append(("", f"and {s['sites'] - s['int8'] - 12} more; the report lists them (--report)"))
    if s["verdict"]:
        rows.append(("accuracy", s["verdict"]))
    if s["synthetic"]:
        rows.append(("warning", "calibrated on random numbers, not on data: accuracy is anybody's guess"))
    rows += [("warning", w) for w in s["warnings"] if not s["synthetic"] or "random" not in w]
    return rows
