"""Scores any digits classifier on the held-out test set; run directly, scores the ONNX file with ONNX Runtime.

``python -m examples.digits.score [model.onnx]``. A classifier is just a function from images to logits, so
every engine and every precision is scored by the same code.
"""

# onnxruntime carries no type information.
# mypy: disable-error-code="import-untyped,import-not-found"

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Takes images float32 [B, 1, 32, 32], gives logits [B, 10].
Run = Callable[[NDArray[np.float32]], NDArray[np.floating]]

MODEL_PATH = Path(__file__).with_name("digits.onnx")
CLASSES = 10


def predict(run: Run, x: NDArray[np.float32], batch: int) -> NDArray[np.int64]:
    """Predicted classes int64 [N] of images float32 [N, 1, 32, 32], `batch` images at a time."""
    predicted = np.empty(len(x), dtype=np.int64)
    for start in range(0, len(x), batch):
        part = x[start : start + batch]
        count = len(part)
        if count < batch:
            # Engines built for one batch size need the last batch full. A real image is repeated, not zeros,
            # so that engines which measure ranges at run time see nothing they would not see anyway.
            part = np.concatenate([part, np.repeat(part[-1:], batch - count, axis=0)])
        predicted[start : start + count] = run(np.ascontiguousarray(part))[:count].argmax(axis=1)
    return predicted


def accuracy(run: Run, x: NDArray[np.float32], y: NDArray[np.int64], batch: int = 64) -> float:
    """Share of images classified correctly, 0 to 1; x float32 [N, 1, 32, 32], y int64 [N]."""
    return float((predict(run, x, batch) == y).mean())


def confusions(run: Run, x: NDArray[np.float32], y: NDArray[np.int64], batch: int = 64) -> NDArray[np.int64]:
    """Counts int64 [10, 10]: row is the true class, column the predicted one."""
    counts = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    np.add.at(counts, (y, predict(run, x, batch)), 1)
    return counts


def worst_pairs(counts: NDArray[np.int64], top: int = 5) -> list[tuple[int, int, int]]:
    """The commonest mistakes in a confusion matrix as (true, predicted, count), most frequent first."""
    mistakes = counts.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:top]
    return [(int(i) // CLASSES, int(i) % CLASSES, int(mistakes.flat[i])) for i in order if mistakes.flat[i]]


def main() -> None:
    """Print test accuracy, 6-against-8 confusions and the commonest mistakes of an ONNX file."""
    # Imported here so that the functions above can be used where neither is installed.
    import onnxruntime

    from examples.digits import data

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", default=MODEL_PATH)
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    session = onnxruntime.InferenceSession(str(args.model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    x, y = data.test_images()
    counts = confusions(lambda images: session.run(None, {name: images})[0], x, y, args.batch)
    correct = int(np.trace(counts))
    print(f"accuracy {correct / len(y):.4f} ({correct} of {len(y)})")
    print(f"6 taken for 8: {counts[6, 8]} of {counts[6].sum()}; 8 taken for 6: {counts[8, 6]} of {counts[8].sum()}")
    print("commonest mistakes: " + ", ".join(f"{t} as {p}: {n}" for t, p, n in worst_pairs(counts)))


if __name__ == "__main__":
    main()
