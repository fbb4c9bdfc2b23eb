"""GPU tactics that move and select, where the op library does not reach: indices outside their axes, and tensors that a
kernel takes in several pieces. Run by Triton's interpreter."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from temper.ir.dims import evaluate
from temper.ir.types import TensorType
from temper.reference import run
from temper.tactics.base import Slot, Tactic, Workload
from temper.tactics.cuda.boxes_kept import BoxesKept
from temper.tactics.cuda.gather import GatherElements, GatherND, GatherRows
from temper.tactics.cuda.histogram import Histogram
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.positions import Positions
from temper.tactics.cuda.running import Running
from temper.tactics.cuda.scatter import ScatterElements, ScatterND
from temper.tactics.cuda.top_k import TopK
from temper.tactics.epilogue import Epilogue, Instr, Operand
from tests.tactics.cuda.interpret import Job, interpret

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be interpreted", allow_module_level=True)

rng = np.random.default_rng(5)
NAN = np.float32(np.nan)


@dataclass
class Case:
    """A workload with its inputs and the outputs it should give."""

    tactic: Tactic
    op: str
    attrs: dict[str, Any]
    inputs: list[np.ndarray]
    want: list[np.ndarray]
    epilogue: Epilogue | None = None

    def workload(self) -> Workload:
        def slot(a: np.ndarray) -> Slot:
            return Slot(TensorType(str(a.dtype), a.shape))

        outputs = tuple(map(slot, self.want))
        plain = Epilogue.identity(str(self.want[0].dtype), self.want[0].ndim)
        return Workload(
            self.op, tuple(sorted(self.attrs.items())), tuple(map(slot, self.inputs)), (False,) * len(self.inputs),
            outputs, self.epilogue or plain, "sm_90",
        )  # fmt: skip


def by_reference(tactic: Tactic, op: str, attrs: dict[str, Any], *inputs: np.ndarray, outputs: list[str]) -> Case:
    return Case(tactic, op, attrs, list(inputs), run(op, inputs, attrs, [str(a.dtype) for a in inputs], outputs))


X = np.arange(12, dtype=np.float32).reshape(4, 3)
RELU = Epilogue((Operand("float32", (True, True)),), (Instr("Relu", (0,), "float32"),), (1,))
BAD = np.array([3, -4, 4, -5])
UPDATES = np.full((4, 3), 100, np.float32)


def cases() -> dict[str, Case]:
    rows = np.stack([X[3], X[0], np.full(3, NAN), np.full(3, NAN)])
    whole = X.astype(np.int64)
    elements = np.array([[0, 1, 5], [-1, -9, 3]])
    picked = np.array([[0, 4, NAN], [9, NAN, 11]], np.float32)
    scattered = X.copy()
    scattered[[3, 0]] += 100
    boxes = np.sort(rng.uniform(0, 1, (1, 2100, 2, 2)), axis=2).astype(np.float32).reshape(1, 2100, 4)
    scores = np.round(rng.uniform(0, 1, (1, 2, 2100)), 3).astype(np.float32)
    kept = {"max_output_boxes_per_class": 3, "iou_threshold": 0.3, "score_threshold": 0.99, "center_point_box": 0}
    tied = np.round(rng.standard_normal((2, 2500)), 1).astype(np.float32)
    tied[1, 2400] = np.nan
    long = rng.standard_normal((2, 2100)).astype(np.float32)
    sparse = (rng.random((3, 3000)) < 0.01).astype(np.int32)
    big = (rng.standard_normal(5000) * 10).astype(np.float32)
    big[::7] = 0
    big[3] = np.inf
    return {
        "rows": Case(GatherRows(), "Gather", {"axis": 0}, [X, BAD], [rows]),
        "rows_of_integers": Case(
            GatherRows(), "Gather", {"axis": 0}, [whole, BAD], [np.stack([whole[3], whole[0], *[np.full(3, -1)] * 2])]
        ),
        "rows_relu": Case(GatherRows(), "Gather", {"axis": 0}, [X, BAD], [rows], RELU),
        "elements": Case(GatherElements(), "GatherElements", {"axis": 0}, [X, elements], [picked]),
        "tuples": Case(
            GatherND(), "GatherND", {"batch_dims": 0}, [X, np.array([[1, 2], [4, 0], [-1, -1]])],
            [np.array([5, NAN, 11], np.float32)],
        ),
        "scattered": Case(
            ScatterElements(), "ScatterElements", {"axis": 0, "reduction": "add"},
            [X, np.repeat(BAD[:, None], 3, 1), UPDATES], [scattered],
        ),
        "scattered_tuples": Case(
            ScatterND(), "ScatterND", {"reduction": "add"}, [X, BAD[:, None], UPDATES], [scattered]
        ),
        "top_of_pieces": by_reference(
            TopK(), "TopK", {"axis": 1, "k": 4, "largest": 1, "sorted": 1}, tied, outputs=["float32", "int64"]
        ),
        "sums_of_pieces": by_reference(
            Running(), "CumSum", {"axis": 1, "exclusive": 1, "reverse": 1}, long, outputs=["float32"]
        ),
        "positions_of_pieces": by_reference(Positions(), "Positions", {}, sparse, outputs=["int64", "int64"]),
        "boxes_of_pieces": by_reference(BoxesKept(), "BoxesKept", kept, boxes, scores, outputs=["int64", "int64"]),
        "histogram_of_parts": by_reference(Histogram(), "Histogram", {}, big, outputs=["int64"]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Case, list[np.ndarray]]]:
    arrays: dict[str, np.ndarray] = {}
    jobs, made = [], cases()
    for name, case in made.items():
        w = case.workload()
        assert case.tactic.accepts(w) is None, name
        kernel = case.tactic.generate(w, (), "k")
        assert isinstance(kernel, TritonKernel)
        arguments: list[int | tuple[str, int, str]] = []
        for (kind, i), (_, pointer) in zip(kernel.args, kernel.triton.signature, strict=False):
            key = f"{name}.{kind}{i}"
            if kind == "shared":
                arrays[key] = np.full(evaluate(kernel.shared_workspace, {}), 85, np.uint8).view(np.int32)
            else:
                arrays[key] = case.inputs[i].copy() if kind == "input" else np.full_like(case.want[i], 7)
            arguments.append((key, 0, pointer))
        jobs += [
            Job(s.text, s.entry, evaluate(g, {}), tuple(arguments))
            for s, g in zip(kernel.sources, kernel.grids, strict=True)
        ]
    done = interpret(jobs, arrays, tmp_path_factory.mktemp("moves"))
    return {n: (c, [done[f"{n}.output{i}"] for i in range(len(c.want))]) for n, c in made.items()}


@pytest.mark.parametrize("name", list(cases()))
def test_results_are_exact(name: str, results: dict[str, tuple[Case, list[np.ndarray]]]) -> None:
    case, got = results[name]
    for a, b in zip(got, case.want, strict=True):
        if name == "sums_of_pieces":  # float64 sums in another order
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(a, b)
