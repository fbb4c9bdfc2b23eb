"""The demo of `make demo`: a trained digits classifier becomes an engine and classifies held-out digits.

Builds an engine from examples/digits/digits.onnx for batches of 1 and of 64, scores it on the perturbed held-out
images, times it, and prints
accuracy and latency beside ONNX Runtime where that is installed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import temper
from examples.digits import data
from examples.digits.score import MODEL_PATH, confusions
from temper.peers import MissingPeer, OnnxRuntime, interleaved

BATCH = 64
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--effort", type=int, default=2)
    args = parser.parse_args()

    print(
        "1. building an engine from",
        MODEL_PATH.name,
        "(kernels are generated, compiled, checked and timed on this machine)",
    )
    x, y = data.test_images()
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "digits.plan"
        temper.build(
            MODEL_PATH,
            threads=args.threads,
            effort=args.effort,
            profiles=[temper.Profile.of(N=(1, 1, BATCH))],
            output=plan,
        )
        engine = temper.load(plan)
        regions = engine.report["regions"]
        memory = engine.report["memory"][0]
        print(
            f"   {plan.stat().st_size / 1e6:.2f} MB plan, {len(regions)} regions from "
            f"{sum(len(r['origin']) for r in regions)} source nodes, arena {memory['arena'] / 1e3:.0f} kB "
            f"({memory['arena'] / memory['lower_bound']:.2f}x the lower bound)"
        )

    runners: dict[str, Run] = {"temper": engine}
    try:
        peer = OnnxRuntime().prepare(MODEL_PATH, args.threads)
        runners["onnxruntime"] = lambda images: peer({"image": images})[0]
    except MissingPeer as e:
        print(f"   (no comparison: {e})")

    print(f"2. scoring {len(y)} held-out digits under shifts, rotations and noise")
    scores = {name: confusions(run, x, y, BATCH) for name, run in runners.items()}
    print("3. timing one image at a time, the contenders taking turns")
    one = np.ascontiguousarray(x[:1])
    timings = interleaved({name: (lambda run=run: run(one)) for name, run in runners.items()}, 2.0)  # type: ignore[misc]

    print(f"\n{'engine':14s} {'accuracy':>9s} {'6 as 8':>7s} {'8 as 6':>7s} {'latency':>12s} {'speed':>7s}")
    slowest = max(t.median for t in timings.values())
    for name, counts in scores.items():
        ms = timings[name].median
        print(
            f"{name:14s} {np.trace(counts) / counts.sum():9.4f} {counts[6, 8]:7d} {counts[8, 6]:7d} "
            f"{1e3 * ms:9.1f} us {slowest / ms:6.2f}x"
        )


if __name__ == "__main__":
    main()
