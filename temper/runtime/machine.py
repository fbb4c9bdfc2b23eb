"""What this machine is: CPU flags, caches, usable cores. Plans name the flags they need; timings are kept per
fingerprint.
"""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import Any

#: Flags that change which code can run or how fast; others (mitigations, virtualisation) come and go with kernel
#: updates.
_RELEVANT = re.compile(r"^(sse|ssse|avx|fma|f16c|bmi|amx|vaes|gfni|movdir|cldemote)")


@cache
def _cpuinfo() -> dict[str, str]:
    """The first processor's block of /proc/cpuinfo; empty where there is none."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            block = []
            for line in f:
                if not line.strip():
                    break
                block.append(line)
    except OSError:
        return {}
    return {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in block)}


def cpu_flags() -> frozenset[str]:
    """Instruction set flags as Linux names them (avx2, fma, avx512f ...)."""
    return frozenset(_cpuinfo().get("flags", "").split())


def cores() -> int:
    """Number of logical CPUs this process may use now."""
    return len(os.sched_getaffinity(0))


def cpu_name() -> str:
    return _cpuinfo().get("model name", platform.machine())


def cache_sizes() -> dict[str, int]:
    """Bytes of the data and unified caches of CPU 0 by level ("l1", "l2", "l3"); empty where the kernel does not
    tell.
    """
    out: dict[str, int] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, level, size = ((index / f).read_text().strip() for f in ("type", "level", "size"))
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K"):
            out[f"l{level}"] = int(size[:-1]) * 1024
    return out


def fingerprint() -> dict[str, Any]:
    """What timings depend on, JSON-able: architecture, CPU, relevant flags, caches. Equal on equal machines."""
    info = _cpuinfo()
    return {
        "arch": platform.machine(),
        "cpu": cpu_name(),
        "family": info.get("cpu family", ""),
        "model": info.get("model", ""),
        "stepping": info.get("stepping", ""),
        "flags": sorted(f for f in cpu_flags() if _RELEVANT.match(f)),
        "caches": cache_sizes(),
    }
