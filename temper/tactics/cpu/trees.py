"""Tree ensembles: a block of rows goes down each tree together (templates/trees.c)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.ops.ensembles import AGGREGATES, MODES
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.geometry import typical_count

_T = {"float32": "float", "float64": "double"}

#: Sums of a block of rows lie on the stack: so many doubles.
_SUMS = 4096

#: Bits of `feature` in the template's node.
_FEATURES, _TEST, _MISSING = 1 << 28, 28, 30
_LEQ, _EQ, _MEMBER = 0, 1, 2


class Trees:
    """Sums, means, least and greatest of ensembles of any of ONNX's comparisons, in float32 or float64."""

    name = "cpu.trees"
    ops = frozenset({"TreeEnsemble"})

    def accepts(self, w: Workload) -> str | None:
        if w.op != "TreeEnsemble":
            return f"computes TreeEnsemble, not {w.op}"
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        if w.epilogue.instrs or len(w.outputs) != 1:
            return "it fuses nothing behind it"
        if not all(w.constant[1:]):
            return "its trees are not constant"
        x, y = w.inputs[0], w.outputs[0]
        assert x is not None
        if x.type.dtype != y.type.dtype or y.type.dtype not in _T:
            return f"data {x.type.dtype} and weights {y.type.dtype} must both be float32 or float64"
        if int(str(w.attr("targets"))) > _SUMS // 8:
            return f"{w.attr('targets')} targets are more than {_SUMS // 8}"
        features = x.type.shape[1]
        if not isinstance(features, int) or features >= _FEATURES:
            return "the number of features must be known and below 2**28"
        return None

    def candidates(self, w: Workload) -> Sequence[Params]:
        most = max(8, _SUMS // max(1, int(str(w.attr("targets")))))
        return [(("block", b),) for b in (64, 256, 8) if b <= most]

    def predict(self, w: Workload, params: Params) -> float:
        """A step down takes about 2 ns while a group of rows waits for loads together, 6 ns for a row alone."""
        x, nodes, trees = w.inputs[0], w.inputs[1], w.inputs[8]
        assert x is not None and nodes is not None and trees is not None
        rows, count = typical_count(x.type.shape[:1]), max(1, typical_count(trees.type.shape))
        depth = max(1, (typical_count(nodes.type.shape) // count).bit_length())
        block = dict(params)["block"]
        return 1e-6 + rows * count * depth * (2e-9 if rows >= 8 else 6e-9) * (1 + 2 / block) / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x, y, trees = w.inputs[0], w.outputs[0], w.inputs[8]
        assert x is not None and trees is not None
        values: dict[str, int | str] = {
            "ENTRY": entry,
            "T": _T[y.type.dtype],
            "ROWS": c_dim(x.type.shape[0], w.symbols),
            "X_ROW": c_dim(x.row_stride or x.type.shape[1], w.symbols),
            "Y_ROW": c_dim(y.row_stride or y.type.shape[1], w.symbols),
            "TARGETS": int(str(w.attr("targets"))),
            "TREES": c_dim(trees.type.shape[0], w.symbols),
            "BLOCK": dict(params)["block"],
            "AGGREGATE": AGGREGATES.index(str(w.attr("aggregate"))),
        }
        args = (("input", 0), ("output", 0), *(("packed", i) for i in range(7)))
        source = template_text("vec.h") + defines(values) + template_text("trees.c")
        return Kernel(source, (entry,), args, w.symbols)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Nodes (inner ones, then leaves), members, root and depth of every tree, starts, targets, weights, facts.

        Every comparison becomes LEQ or EQ: x < t is x <= the number below t, and the others swap the children. A NaN
        goes where its bit says, which swaps with them.
        """
        feature, mode, threshold, children, missing, sets, members, roots, starts, targets, weights = (
            constants[i] for i in range(1, 12)
        )
        inner, leaves = len(feature), len(starts) - 1
        dtype = threshold.dtype
        node = np.dtype([("threshold", dtype), ("feature", "i4"), ("child", "i4", 2), ("set", "i4", 2)], align=True)
        names = {m: mode == k for k, m in enumerate(MODES)}
        limit = threshold.copy()
        with np.errstate(over="ignore"):
            below = np.nextafter(threshold, np.array(-np.inf, dtype))
        strict = names["LT"] | names["GTE"]
        limit[strict] = np.where(np.isneginf(threshold), np.array(np.nan, dtype), below)[strict]
        # a comparison with NaN never holds, whichever way round: then nothing is swapped
        swap = names["NEQ"] | ((names["GT"] | names["GTE"]) & ~np.isnan(threshold))
        to_first = (missing | names["NEQ"]) ^ swap
        test = np.where(names["EQ"] | names["NEQ"], _EQ, np.where(names["MEMBER"], _MEMBER, _LEQ))
        packed = np.zeros(inner + leaves, node)
        packed["threshold"][:inner] = limit
        packed["feature"][:inner] = feature | (test << _TEST) | (to_first.astype(np.int64) << _MISSING)
        follow = np.where(children < 0, inner + ~children, children)
        packed["child"][:inner] = np.where(swap[:, None], follow[:, ::-1], follow)
        packed["child"][inner:] = (inner + np.arange(leaves))[:, None]
        packed["set"][:inner] = sets
        tops = np.where(roots < 0, inner + ~roots.astype(np.int64), roots)
        pairs = np.stack([tops, _depths(tops, packed["child"], inner)], axis=1).astype(np.int32)
        single = int(str(w.attr("targets"))) == 1 and bool((np.diff(starts) == 1).all())
        facts = np.array([inner, not test.any(), single], np.int32)
        return packed.view(np.uint8), members, pairs, starts, targets, weights, facts


def _depths(roots: np.ndarray, child: np.ndarray, inner: int) -> np.ndarray:
    """Steps from every root to its deepest leaf. The importer sees to it that there are no circles."""
    depth = np.zeros(len(roots), np.int64)
    level, of, step = roots, np.arange(len(roots)), 0
    while level.size:
        depth[of] = step
        open_ = level < inner
        level, of, step = child[level[open_]].reshape(-1), np.repeat(of[open_], 2), step + 1
    return depth
