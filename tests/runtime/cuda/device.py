"""The GPU runtime on a real GPU: arrays of PyTorch, CuPy and JAX, streams, captures, faults, and what a call costs.

    python -m tests.runtime.cuda.device [CHECK ...]

builds a small model on this machine's GPU, runs every check and prints a line each; status 1 if one fails.
"""

from __future__ import annotations

import sys
import time

from temper.builder import build_plan
from temper.config import BuildConfig, Profile
from tests.runtime.cuda import device_arrays, device_commands, device_faults, device_life, device_runs, device_second  # noqa: F401 - register
from tests.runtime.cuda.checks import CHECKS, model


def main() -> None:
    chosen = sys.argv[1:] or list(CHECKS)
    start = time.perf_counter()
    profile = Profile.of(N=(1, 4, 8192))
    plan = build_plan(model(), BuildConfig(device="cuda", effort=1, profiles=(profile,))).plan
    print(f"built in {time.perf_counter() - start:.1f} s")
    failed = 0
    for name in chosen:
        start = time.perf_counter()
        try:
            words = CHECKS[name](plan)
        except Exception as e:
            import traceback

            failed += 1
            words = f"FAILED: {type(e).__name__}: {e}\n{traceback.format_exc()}"
        print(f"{name}: {words} ({time.perf_counter() - start:.1f} s)", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
