"""The demo of `make demo`: a trained digits classifier in INT8 without the accuracy cliff.

The pictures are raw: light varies by eleven stops, so that one scale per tensor cannot hold a bright picture and a dark
one (examples/digits/data.py). The same 200 pictures calibrate everybody: ONNX Runtime's static quantization, a naive
INT8 engine (min-max ranges, everything in INT8), and Temper's, which may lose 0.3 % of accuracy on labelled validation
pictures. All are then scored on held-out test pictures, and timed taking turns. A report is written.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import temper
from benchmarks.quantized_peers import PeerFailed, ort_static
from examples.digits import data
from examples.digits.score import MODEL_PATH, accuracy, worst_pairs
from temper.peers import MissingPeer, OnnxRuntime, Timing, interleaved
from temper.precision.outcome import Outcome, Point
from temper.report.judge import judged
from temper.report.page import read, write

Images = NDArray[np.float32]
Scores = NDArray[np.float32]
Run = Callable[[Images], Scores]

FP32, NAIVE, TEMPER = "Temper FP32", "naive INT8", "Temper INT8"
CALIBRATION = 200
MAX_DROP = 0.003
CLASSES = tuple(str(digit) for digit in range(data.CLASSES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--effort", type=int, default=2)
    parser.add_argument("--report", type=Path, default=Path("report.html"))
    args = parser.parse_args()

    calibration = [image[None] for image in data.calibration_images(CALIBRATION)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runners, outcome = engines(calibration, args.threads, args.effort, folder)
        runners |= peers(calibration, args.threads, folder)
        x, y = data.test_images()
        print(f"4. scoring {len(y)} held-out pictures")
        scores = {who: answered(run, x) for who, run in runners.items()}
        print("5. timing one picture at a time, the contenders taking turns")
        one = np.ascontiguousarray(x[:1])
        timings = interleaved({who: (lambda run=run: run(one)) for who, run in runners.items()}, 1.5)  # type: ignore[misc]
        naive_metric = validation(runners[NAIVE])
    show(scores, timings, y)
    answers = judged(
        scores[FP32],
        scores[TEMPER],
        naive=scores[NAIVE],
        labels=y,
        images=x,
        origin="held-out test pictures",
        classes=CLASSES,
    )
    points = with_naive(outcome, naive_metric, {who: timings[who].median for who in (FP32, NAIVE, TEMPER)})
    outcome = dataclasses.replace(outcome, answers=answers, points=points)
    print(f"\n{outcome.verdict}\nreport: {', '.join(str(p) for p in write(outcome, args.report))}")


def engines(calibration: list[Images], threads: int, effort: int, folder: Path) -> tuple[dict[str, Run], Outcome]:
    """Temper's three engines, and the record of the last one's build."""
    print(f"1. building FP32 and naive INT8 from {MODEL_PATH.name}: kernels are generated, compiled, checked and timed")
    fp32 = temper.build(MODEL_PATH, threads=threads, effort=effort)
    naive = temper.build(
        MODEL_PATH,
        threads=threads,
        effort=effort,
        precision="int8",
        calibration=calibration,
        calibrator="minmax",
        pure_int8=True,
    )
    print(f"2. building INT8 that loses at most {100 * MAX_DROP:g} % of the validation pictures")
    record = folder / "outcome.json"
    within = temper.build(
        MODEL_PATH,
        threads=threads,
        effort=effort,
        precision="int8",
        calibration=calibration,
        evaluate=validation,
        max_drop=MAX_DROP,
        report=record,
        say=lambda line: print(f"   {line}"),
    )
    return {FP32: fp32, NAIVE: naive, TEMPER: within}, read(record)


def answered(run: Run, x: Images) -> Scores:
    """Scores [N, 10] of pictures [N, 1, 32, 32], given one by one."""
    return np.concatenate([run(x[i : i + 1]).copy() for i in range(len(x))])


def validation(run: Run) -> float:
    """Share of the labelled validation pictures that are read right; none of them is a test picture."""
    x, y = data.validation_images()
    return accuracy(run, x, y, batch=1)


def peers(calibration: list[Images], threads: int, folder: Path) -> dict[str, Run]:
    """ONNX Runtime with the model as it is, and with its static quantization on the same pictures."""
    print("3. ONNX Runtime: the model as it is, and its static quantization on the same pictures")
    found: dict[str, Run] = {}
    try:
        ort = OnnxRuntime()
        quantized = ort_static(
            MODEL_PATH, [{"image": image} for image in calibration], folder / "ort.onnx", Path(sys.executable)
        )
        for who, model in (("ONNX Runtime FP32", MODEL_PATH), ("ONNX Runtime INT8", quantized)):
            peer = ort.prepare(model, threads)
            found[who] = lambda images, peer=peer: peer({"image": images})[0]  # type: ignore[misc]
    except (MissingPeer, PeerFailed) as e:
        print(f"   (no comparison: {e})")
    return found


def with_naive(outcome: Outcome, metric: float, ms: Mapping[str, float]) -> tuple[Point, ...]:
    """The points of the search with the naive engine among them; FP32, naive and chosen with times of one run."""
    sites = len(outcome.sites)
    naive = Point("naive: all INT8, min-max", "naive", sites, sites, metric=metric)
    times = {"float": ms[FP32], "naive": ms[NAIVE], "chosen": ms[TEMPER]}
    return tuple(dataclasses.replace(p, ms=times.get(p.kind, p.ms)) for p in (*outcome.points, naive))


def show(scores: Mapping[str, Scores], timings: Mapping[str, Timing], labels: NDArray[np.int64]) -> None:
    """Accuracy, confusions of 6 with 8, the commonest mistake and latency of each."""
    slowest = max(t.median for t in timings.values())
    print(f"\n{'':18s}  accuracy  6 as 8  8 as 6    most often    latency   speed")
    for who, found in scores.items():
        counts = np.zeros((data.CLASSES, data.CLASSES), np.int64)
        np.add.at(counts, (labels, found.argmax(axis=1)), 1)
        true, read_as, times = worst_pairs(counts, 1)[0]
        ms = timings[who].median
        print(
            f"{who:18s} {np.trace(counts) / counts.sum():9.4f} {counts[6, 8]:7d} {counts[8, 6]:7d} "
            f"{f'{true} as {read_as}: {times}':>13s} {1e3 * ms:7.1f} us {slowest / ms:6.2f}x"
        )


if __name__ == "__main__":
    main()
