"""ONNX tree ensembles, of either generation, as the IR's TreeEnsemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from temper.errors import ModelError
from temper.frontends.onnx.context import Context, Refusal, Row
from temper.frontends.onnx.scores import classified, transformed
from temper.ir.graph import Value
from temper.ir.ops.ensembles import MODES

_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")  # in the order of TreeEnsemble's aggregate_function


@dataclass(frozen=True)
class Trees:
    """Arrays of reference/ensembles.py, without the data."""

    feature: np.ndarray
    mode: np.ndarray
    threshold: np.ndarray
    children: np.ndarray
    missing: np.ndarray
    sets: np.ndarray
    members: np.ndarray
    roots: np.ndarray
    starts: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    def checked(self, c: Context, features: Any, count: int) -> Trees:
        """Itself. ModelError where an index leads nowhere: a kernel would follow it."""
        nodes, leaves, entries = len(self.feature), len(self.starts) - 1, len(self.targets)
        follows = np.concatenate([self.children.reshape(-1), self.roots])
        if follows.size and (follows.max() >= nodes or follows.min() < ~(leaves - 1)):
            raise ModelError(f"{c}: a child is neither one of {nodes} nodes nor one of {leaves} leaves")
        if isinstance(features, int) and nodes and not 0 <= self.feature.min() <= self.feature.max() < features:
            raise ModelError(f"{c}: a node looks at feature {self.feature.max()}; the data has {features}")
        if entries and not 0 <= self.targets.min() <= self.targets.max() < count:
            raise ModelError(f"{c}: a leaf has the target {self.targets.max()} of {count}")
        parents = np.bincount(follows[follows >= 0], minlength=nodes)
        if nodes and parents.max(initial=0) > 1:
            raise ModelError(f"{c}: node {int(parents.argmax())} has several parents, or is the root of several trees")
        return self

    def emit(self, c: Context, x: Value, count: int, aggregate: str) -> Value:
        self.checked(c, x.type.shape[1] if x.type.rank == 2 else None, count)
        operands = [c.constant(a) for a in vars(self).values()]
        return c.emit("TreeEnsemble", x, *operands, targets=count, aggregate=aggregate)


def _floats(c: Context, name: str, dtype: str) -> np.ndarray:
    """A list of numbers, or the tensor that replaces it in double precision."""
    tensor = c.attr(f"{name}_as_tensor")
    return tensor[0].reshape(-1) if tensor is not None else np.array(c.attr(name) or (), dtype)


def _old(c: Context, kind: str, dtype: str) -> Trees:
    """Nodes numbered per tree, of TreeEnsembleRegressor ("target") and TreeEnsembleClassifier ("class")."""
    trees, ids, modes = c.attr("nodes_treeids"), c.attr("nodes_nodeids"), c.attr("nodes_modes")
    if not trees or not len(trees) == len(ids) == len(modes):
        raise ModelError(f"{c}: nodes_treeids, nodes_nodeids and nodes_modes must have one entry a node")
    thresholds = _floats(c, "nodes_values", dtype)
    lists = [c.attr(n) for n in ("nodes_featureids", "nodes_truenodeids", "nodes_falsenodeids")]
    if any(len(v) != len(trees) for v in (thresholds, *lists)):
        raise ModelError(f"{c}: the lists of nodes differ in length")
    inner = [i for i, m in enumerate(modes) if m != "LEAF"]
    leaves = [i for i, m in enumerate(modes) if m == "LEAF"]
    where: dict[tuple[int, int], int] = {}
    for number, i in enumerate(inner):
        where[trees[i], ids[i]] = number
    for number, i in enumerate(leaves):
        where[trees[i], ids[i]] = ~number
    if len(where) != len(trees):
        raise ModelError(f"{c}: two nodes of one tree have one id")
    names = {f"BRANCH_{m}": k for k, m in enumerate(MODES)}
    if unknown := {modes[i] for i in inner} - set(names):
        raise ModelError(f"{c}: unknown node modes {sorted(unknown)}")
    features, true, false = lists
    try:
        children = [(where[trees[i], true[i]], where[trees[i], false[i]]) for i in inner]
    except KeyError as e:
        raise ModelError(f"{c}: a child {e} is not among the nodes") from e
    pointed = {k for pair in children for k in pair}
    roots = [where[t, i] for t, i in zip(trees, ids, strict=True) if where[t, i] not in pointed]
    if len(roots) != len(set(trees)):
        raise ModelError(f"{c}: {len(set(trees))} trees have {len(roots)} roots")
    weights = _floats(c, f"{kind}_weights", dtype)
    owners, numbers, entries = (c.attr(f"{kind}_{n}") or () for n in ("treeids", "nodeids", "ids"))
    if not len(owners) == len(numbers) == len(entries) == len(weights):
        raise ModelError(f"{c}: the lists of weights differ in length")
    try:
        of = [~where[t, n] for t, n in zip(owners, numbers, strict=True)]
    except KeyError as e:
        raise ModelError(f"{c}: a weight belongs to {e}, which is not among the nodes") from e
    if min(of, default=0) < 0:
        raise ModelError(f"{c}: a weight belongs to a node that is not a leaf")
    order = np.argsort(of, kind="stable")
    starts = np.searchsorted(np.array(of, np.int64)[order], np.arange(len(leaves) + 1))
    missing = c.attr("nodes_missing_value_tracks_true") or (0,) * len(trees)
    return Trees(
        np.array([features[i] for i in inner], np.int32),
        np.array([names[modes[i]] for i in inner], np.uint8),
        thresholds[inner].astype(dtype),
        np.array(children, np.int32).reshape(-1, 2),
        np.array([bool(missing[i]) for i in inner], bool),
        np.zeros((len(inner), 2), np.int32),
        np.zeros(1, dtype),
        np.array(roots, np.int32),
        starts.astype(np.int32),
        np.array(entries, np.int32)[order],
        weights[order].astype(dtype),
    )


def _precision(c: Context) -> tuple[Value, str]:
    """The data as [N, F] floats and the dtype that thresholds are compared in."""
    x = c.input(0)
    if x.type.dtype not in ("float32", "float64"):
        x = c.emit("Cast", x, to="float32")
    if x.type.rank == 1:
        x = c.reshape(x, (1, *x.type.shape))
    if x.type.rank != 2:
        raise Refusal(f"the data must have rank 1 or 2, not {x.type}")
    return x, x.type.dtype


def _biased(c: Context, y: Value, base: Sequence[float] | np.ndarray) -> Value:
    values = np.asarray(base if base is not None else (), y.type.dtype)
    return c.emit("Add", y, c.constant(values)) if values.size and values.any() else y


def _regressor(c: Context) -> Value:
    x, dtype = _precision(c)
    count, aggregate = c.attr("n_targets") or 1, c.attr("aggregate_function", "SUM")
    if aggregate not in _AGGREGATES:
        raise ModelError(f"{c}: aggregate_function must be one of {', '.join(_AGGREGATES)}")
    y = _old(c, "target", dtype).emit(c, x, count, aggregate)
    y = _biased(c, y, _floats(c, "base_values", dtype))
    y = transformed(c, y, c.attr("post_transform", "NONE"))
    return y if dtype == "float32" else c.emit("Cast", y, to="float32")


def _classifier(c: Context) -> list[Value]:
    x, dtype = _precision(c)
    labels = c.attr("classlabels_strings") or c.attr("classlabels_int64s")
    if not labels:
        raise ModelError(f"{c}: there are no class labels")
    trees = _old(c, "class", dtype)
    base = _floats(c, "base_values", dtype)
    only, post = set(trees.targets.tolist()), c.attr("post_transform", "NONE")
    # weights for one of two classes: it is best above 0.5 if they look like probabilities, above 0 if not
    middle = (0.5 if (trees.weights >= 0).all() else 0.0) if len(labels) == 2 and len(only) == 1 else None
    if middle is not None and only == {0}:
        y = _biased(c, trees.emit(c, x, 1, "SUM"), base[-1:])
        if base.size == 2:
            y = c.emit("Concat", c.emit("Neg", y), y, axis=1)
        return classified(c, y, labels, post, middle)
    y = _biased(c, trees.emit(c, x, len(labels), "SUM"), base)
    return classified(c, y, labels, post, middle)


def _ensemble(c: Context) -> Value:
    """TreeEnsemble of ai.onnx.ml 5: nodes and leaves are numbered through all trees."""
    x, dtype = _precision(c)
    lists: Mapping[str, Any] = {
        n: np.array(c.attr(f"nodes_{n}") or (), np.int64)
        for n in ("featureids", "truenodeids", "falsenodeids", "trueleafs", "falseleafs")
    }
    splits, modes = c.attr("nodes_splits")[0].reshape(-1), c.attr("nodes_modes")[0].reshape(-1).astype(np.uint8)
    roots = np.array(c.attr("tree_roots"), np.int64)
    targets, weights = np.array(c.attr("leaf_targetids"), np.int32), c.attr("leaf_weights")[0].reshape(-1)
    count = len(splits)
    if any(len(v) != count for v in (*lists.values(), modes)) or len(targets) != len(weights):
        raise ModelError(f"{c}: the lists of nodes or of leaves differ in length")
    if count and modes.max() >= len(MODES):
        raise ModelError(f"{c}: {modes.max()} is not a mode of a node")
    children = np.stack(
        [
            np.where(lists["trueleafs"] != 0, ~lists["truenodeids"], lists["truenodeids"]),
            np.where(lists["falseleafs"] != 0, ~lists["falsenodeids"], lists["falsenodeids"]),
        ],
        axis=1,
    )
    # a tree that is a leaf alone is a node whose children are both that leaf: it stays as it is
    sets, members = _sets(c, modes)
    missing = c.attr("nodes_missing_value_tracks_true") or (0,) * count
    trees = Trees(
        lists["featureids"].astype(np.int32),
        modes,
        splits.astype(dtype),
        children.astype(np.int32),
        np.array(missing, bool),
        sets,
        members.astype(dtype),
        roots.astype(np.int32),
        np.arange(len(targets) + 1, dtype=np.int32),
        targets,
        weights.astype(dtype),
    )
    number = c.attr("aggregate_function", 1)
    transforms = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
    post = c.attr("post_transform", 0)
    if not 0 <= number < len(_AGGREGATES) or not 0 <= post < len(transforms):
        raise ModelError(f"{c}: aggregate_function {number} or post_transform {post} does not exist")
    return transformed(c, trees.emit(c, x, c.attr("n_targets"), _AGGREGATES[number]), transforms[post])


def _sets(c: Context, modes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every node's range of members. The sets of the nodes that have one follow each other, NaN after each."""
    given = c.attr("membership_values")
    members = given[0].reshape(-1) if given is not None else np.zeros(1, np.float32)
    ranges = np.zeros((len(modes), 2), np.int32)
    owners = np.flatnonzero(modes == MODES.index("MEMBER"))
    ends = np.flatnonzero(np.isnan(members))
    if len(ends) < len(owners):
        raise ModelError(f"{c}: {len(owners)} nodes test membership, but there are {len(ends)} sets")
    start = 0
    for node, end in zip(owners, ends, strict=False):
        ranges[node] = start, end
        start = int(end) + 1
    return ranges, members


ROWS: tuple[Row, ...] = (
    Row("TreeEnsembleRegressor", _regressor, domain="ai.onnx.ml"),
    Row("TreeEnsembleClassifier", _classifier, domain="ai.onnx.ml"),
    Row("TreeEnsemble", _ensemble, domain="ai.onnx.ml"),
)
