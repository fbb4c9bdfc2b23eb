"""Ops of ai.onnx.ml, of strings, of randomness and of training, as models: beside ONNX Runtime, the onnx package's
evaluator, scikit-learn, or what is written here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from temper.errors import ModelError, TemperError, UnsupportedError
from temper.frontends.onnx import import_onnx
from temper.ir.evaluate import evaluate
from tests.ops.cases_host import words

ML = "ai.onnx.ml"
TRAINING = "ai.onnx.preview.training"
_VERSIONS = {"": 21, ML: 3, TRAINING: 1}


def model(
    op: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[int],
    *,
    domain: str = "",
    version: int = 0,
    constants: Mapping[str, np.ndarray] | None = None,
    **attrs: Any,
) -> onnx.ModelProto:
    """One node on `inputs` and then `constants`; outputs: element types of y0, y1 .. of unknown shape."""

    def info(name: str, a: np.ndarray) -> onnx.ValueInfoProto:
        code = TensorProto.STRING if a.dtype == object else helper.np_dtype_to_tensor_dtype(a.dtype)
        return helper.make_tensor_value_info(name, code, a.shape)

    names = [f"y{i}" for i in range(len(outputs))]
    node = helper.make_node(op, [*inputs, *(constants or {})], names, name="node", domain=domain, **attrs)
    graph = helper.make_graph(
        [node],
        "g",
        [info(k, v) for k, v in inputs.items()],
        [helper.make_tensor_value_info(n, code, None) for n, code in zip(names, outputs, strict=True)],
        [numpy_helper.from_array(a, k) for k, a in (constants or {}).items()],
    )
    sets = [helper.make_opsetid("", _VERSIONS[""])]
    if domain:
        sets.append(helper.make_opsetid(domain, version or _VERSIONS[domain]))
    elif version:
        sets = [helper.make_opsetid("", version)]
    return helper.make_model(graph, opset_imports=sets, ir_version=10)


def ours(m: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return evaluate(import_onnx(m), feeds)


def runtime(m: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(m.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def same(got: Sequence[np.ndarray], want: Sequence[np.ndarray], tolerance: float = 1e-5) -> None:
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        w = np.asarray(w)
        assert g.shape == w.shape
        if g.dtype == object:
            assert g.tolist() == w.astype(object).tolist()
        else:
            assert g.dtype == w.dtype
            np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance)


rng = np.random.default_rng(5)
X = rng.standard_normal((6, 4)).astype(np.float32)
F, I64, STR = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING

_FEATURES: dict[str, tuple[str, dict[str, Any], np.ndarray, Sequence[int]]] = {
    "binarizer": ("Binarizer", {"threshold": 0.25}, X, (F,)),
    "normalizer_l1": ("Normalizer", {"norm": "L1"}, X, (F,)),
    "normalizer_l2": ("Normalizer", {"norm": "L2"}, np.vstack([X, np.zeros((1, 4), np.float32)]), (F,)),
    "normalizer_max": ("Normalizer", {"norm": "MAX"}, np.abs(X), (F,)),
    "scaler": ("Scaler", {"offset": [1.0, 2, 3, 4], "scale": [0.5, 1, 2, -1]}, X, (F,)),
    "scaler_int": ("Scaler", {"offset": [1.0], "scale": [0.5]}, np.arange(8).reshape(2, 4), (F,)),
    "imputer_nan": (
        "Imputer",
        {"imputed_value_floats": [1.0, 2, 3, 4], "replaced_value_float": float("nan")},
        np.where(X > 0.5, np.nan, X),
        (F,),
    ),
    "imputer_int": (
        "Imputer",
        {"imputed_value_int64s": [7], "replaced_value_int64": 2},
        np.arange(8).reshape(2, 4) % 3,
        (I64,),
    ),
    "one_hot_ints": ("OneHotEncoder", {"cats_int64s": [3, 1, 2]}, np.array([[1, 2], [5, 3]]), (F,)),
    "one_hot_strings": ("OneHotEncoder", {"cats_strings": ["b", "a"]}, words("a", "b", "c"), (F,)),
    "vectorizer": ("FeatureVectorizer", {"inputdimensions": [4]}, X, (F,)),
    "regressor": ("LinearRegressor", {"coefficients": [1.0, 2, 3, -4], "intercepts": [0.5]}, X, (F,)),
    "regressor_two": (
        "LinearRegressor",
        {"coefficients": [1.0, 2, 3, -4, 0, 1, 0, 1], "targets": 2, "post_transform": "SOFTMAX"},
        X,
        (F,),
    ),
    **{
        f"classifier_{post}": (
            "LinearClassifier",
            {
                "coefficients": rng.standard_normal(12).tolist(),
                "intercepts": [0.1, -0.2, 0.3],
                "classlabels_ints": [4, 2, 9],
                "post_transform": post,
            },
            X,
            (I64, F),
        )
        for post in ("NONE", "SOFTMAX", "LOGISTIC")
    },
    "classifier_strings": (
        "LinearClassifier",
        {
            "coefficients": rng.standard_normal(8).tolist(),
            "intercepts": [0.1, -0.2],
            "classlabels_strings": ["no", "yes"],
            "post_transform": "SOFTMAX",
        },
        X,
        (STR, F),
    ),
    "classifier_one_row": (
        "LinearClassifier",
        {
            "coefficients": [1.0, -1, 2, 0.5],
            "intercepts": [0.1],
            "classlabels_ints": [0, 1],
            "post_transform": "LOGISTIC",
        },
        X,
        (I64, F),
    ),
    **{
        f"svm_{kind}": (
            "SVMRegressor",
            {
                "coefficients": [0.5, -1.0, 2.0],
                "support_vectors": rng.standard_normal(12).tolist(),
                "n_supports": 3,
                "rho": [0.25],
                "kernel_type": kind,
                "kernel_params": [0.5, 0.75, 2.0],
            },
            X,
            (F,),
        )
        for kind in ("LINEAR", "POLY", "RBF", "SIGMOID")
    },
}


@pytest.mark.parametrize("name", _FEATURES)
def test_features_and_linear_models(name: str) -> None:
    op, attrs, x, outputs = _FEATURES[name]
    m = model(op, {"x": x}, outputs, domain=ML, **attrs)
    same(ours(m, {"x": x}), runtime(m, {"x": x}))


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("post", ["NONE", "LOGISTIC"])
def test_support_vector_classifiers(classes: int, post: str) -> None:
    rng = np.random.default_rng(classes)
    sizes = [3, 2, 4, 1][:classes]
    attrs: dict[str, Any] = {
        "coefficients": rng.standard_normal((classes - 1) * sum(sizes)).tolist(),
        "support_vectors": rng.standard_normal(sum(sizes) * 4).tolist(),
        "vectors_per_class": sizes,
        "rho": rng.standard_normal(classes * (classes - 1) // 2).tolist(),
        "kernel_type": "RBF",
        "kernel_params": [0.5, 0.0, 3.0],
        "classlabels_ints": [7, 3, 5, 4][:classes],
    }
    m = model("SVMClassifier", {"x": _DATA}, (I64, F), domain=ML, **attrs, post_transform=post)
    got = ours(m, {"x": _DATA})
    same(got, runtime(m, {"x": _DATA}))
    assert len(set(got[0].tolist())) > 1
    odds = {"prob_a": attrs["rho"], "prob_b": attrs["rho"]}
    with pytest.raises(UnsupportedError, match="probability=False"):
        import_onnx(model("SVMClassifier", {"x": _DATA}, (I64, F), domain=ML, **attrs, **odds))


def test_array_feature_extractor() -> None:
    for x in (X, X[0]):
        m = model("ArrayFeatureExtractor", {"x": x}, (F,), domain=ML, constants={"i": np.array([[3, 0, 3]], np.int64)})
        same(ours(m, {"x": x}), runtime(m, {"x": x}))


def _tree_lists(rng: np.random.Generator, trees: int, depth: int, kinds: Sequence[str]) -> dict[str, Any]:
    """Complete trees in the form of TreeEnsembleRegressor; nodes are numbered breadth first in each."""
    n = 2 ** (depth + 1) - 1
    inner = 2**depth - 1
    out: dict[str, list[Any]] = {
        k: [] for k in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    }
    for t in range(trees):
        for k in range(n):
            leaf = k >= inner
            row = (
                t,
                k,
                0 if leaf else int(rng.integers(0, 4)),
                0.0 if leaf else float(np.round(rng.standard_normal(), 1)),
                "LEAF" if leaf else kinds[int(rng.integers(0, len(kinds)))],
                0 if leaf else 2 * k + 1,
                0 if leaf else 2 * k + 2,
            )
            for key, value in zip(out, row, strict=True):
                out[key].append(value)
    lists: dict[str, Any] = {f"nodes_{k}": v for k, v in out.items()}
    lists["nodes_missing_value_tracks_true"] = rng.integers(0, 2, trees * n).tolist()
    return lists


def _leaves(rng: np.random.Generator, kind: str, trees: int, depth: int, targets: Sequence[int]) -> dict[str, Any]:
    inner, count = 2**depth - 1, 2**depth
    rows = [(t, inner + k, int(i)) for t in range(trees) for k in range(count) for i in targets]
    weights = np.round(rng.standard_normal(len(rows)), 2)
    return {
        f"{kind}_treeids": [r[0] for r in rows],
        f"{kind}_nodeids": [r[1] for r in rows],
        f"{kind}_ids": [r[2] for r in rows],
        f"{kind}_weights": weights.tolist(),
    }


_KINDS = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
_DATA = np.round(np.random.default_rng(0).standard_normal((50, 4)), 1).astype(np.float32)


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("kinds", [_KINDS[:1], _KINDS])
def test_tree_regressors(aggregate: str, kinds: Sequence[str]) -> None:
    rng = np.random.default_rng(3)
    attrs = {**_tree_lists(rng, 5, 3, kinds), **_leaves(rng, "target", 5, 3, (0, 1))}
    x = _DATA.copy()
    x[::7, 1] = np.nan
    m = model(
        "TreeEnsembleRegressor",
        {"x": x},
        (F,),
        domain=ML,
        **attrs,
        n_targets=2,
        aggregate_function=aggregate,
        base_values=[0.5, -1.0],
    )
    same(ours(m, {"x": x}), runtime(m, {"x": x}))


@pytest.mark.parametrize("post", ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"])
def test_tree_classifiers(post: str) -> None:
    rng = np.random.default_rng(4)
    attrs = {**_tree_lists(rng, 4, 3, _KINDS[:2]), **_leaves(rng, "class", 4, 3, (0, 1, 2))}
    m = model(
        "TreeEnsembleClassifier",
        {"x": _DATA},
        (STR, F),
        domain=ML,
        **attrs,
        classlabels_strings=["a", "b", "c"],
        post_transform=post,
    )
    same(ours(m, {"x": _DATA}), runtime(m, {"x": _DATA}))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("post", ["NONE", "LOGISTIC"])
def test_binary_tree_classifiers_with_one_score(post: str, positive: bool, which: int) -> None:
    rng = np.random.default_rng(6)
    attrs = {**_tree_lists(rng, 3, 2, _KINDS[:1]), **_leaves(rng, "class", 3, 2, (which,))}
    if positive:
        attrs["class_weights"] = (np.abs(attrs["class_weights"]) / 8).tolist()
    m = model(
        "TreeEnsembleClassifier",
        {"x": _DATA},
        (I64, F),
        domain=ML,
        **attrs,
        classlabels_int64s=[3, 8],
        post_transform=post,
    )
    same(ours(m, {"x": _DATA}), runtime(m, {"x": _DATA}))


def test_a_forest_of_scikit_learn() -> None:
    """The lists an exporter writes from scikit-learn's arrays give its predictions."""
    from sklearn.ensemble import RandomForestRegressor

    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 4)).astype(np.float32)
    forest = RandomForestRegressor(6, max_depth=5, random_state=0).fit(x, x[:, 0] * x[:, 1] + x[:, 2])
    attrs: dict[str, list[Any]] = {}

    def put(**row: Any) -> None:
        for k, v in row.items():
            attrs.setdefault(k, []).append(v)

    for t, one in enumerate(forest.estimators_):
        tree = one.tree_
        for k in range(tree.node_count):
            leaf = tree.children_left[k] < 0
            put(
                nodes_treeids=t,
                nodes_nodeids=k,
                nodes_featureids=0 if leaf else int(tree.feature[k]),
                nodes_values=0.0 if leaf else float(tree.threshold[k]),
                nodes_modes="LEAF" if leaf else "BRANCH_LEQ",
                nodes_truenodeids=0 if leaf else int(tree.children_left[k]),
                nodes_falsenodeids=0 if leaf else int(tree.children_right[k]),
            )
            if leaf:
                put(target_treeids=t, target_nodeids=k, target_ids=0, target_weights=float(tree.value[k, 0, 0]))
    m = model("TreeEnsembleRegressor", {"x": x}, (F,), domain=ML, **attrs, n_targets=1, aggregate_function="AVERAGE")
    (got,) = ours(m, {"x": x})
    np.testing.assert_allclose(got[:, 0], forest.predict(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes_truenodeids": [1, 0, 9]}, "has the root|roots|among the nodes|parents"),
        ({"nodes_featureids": [8, 0, 0]}, "feature 8"),
        ({"nodes_modes": ["BRANCH_LEQ", "LEAF", "TWIG"]}, "unknown node modes"),
        ({"nodes_falsenodeids": [1, 0, 0]}, "parents|roots"),
        ({"target_ids": [5, 0]}, "target 5"),
        ({"target_nodeids": [0, 2]}, "not a leaf"),
        ({"nodes_nodeids": [0, 1, 1]}, "one id"),
    ],
)
def test_damaged_trees_are_refused(change: dict[str, Any], message: str) -> None:
    attrs: dict[str, Any] = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [1, 0, 0],
        "nodes_values": [0.5, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 0],
        "target_weights": [1.0, 2.0],
        "n_targets": 1,
    }
    good = model("TreeEnsembleRegressor", {"x": X}, (F,), domain=ML, **attrs)
    same(ours(good, {"x": X}), [np.where(X[:, 1:2] <= 0.5, np.float32(1), np.float32(2))])
    if change.get("nodes_truenodeids") == [1, 0, 9]:
        change = {"nodes_truenodeids": [9, 0, 0]}
    with pytest.raises(ModelError, match=message):
        ours(model("TreeEnsembleRegressor", {"x": X}, (F,), domain=ML, **{**attrs, **change}), {"x": X})


def test_label_encoders() -> None:
    texts = words("b", "zz", "a")
    cases: list[tuple[np.ndarray, int, dict[str, Any]]] = [
        (texts, I64, {"keys_strings": ["a", "b"], "values_int64s": [5, 6], "default_int64": 7}),
        (np.array([1, 2, 9]), STR, {"keys_int64s": [1, 2], "values_strings": ["x", "y"]}),
        (np.array([1, np.nan], np.float32), I64, {"keys_floats": [np.nan, 2.0], "values_int64s": [3, 4]}),
        (
            np.array([[4, 1, 4], [2, 0, 3]]),
            F,
            {"keys_int64s": [4, 0, 1], "values_floats": [0.5, np.nan, 2.5], "default_float": -3.0},
        ),
    ]
    for x, code, attrs in cases:
        m = model("LabelEncoder", {"x": x}, (code,), domain=ML, version=4, **attrs)
        same(ours(m, {"x": x}), runtime(m, {"x": x}))
    for x, code, want in ((texts, I64, np.array([1, -1, 0])), (np.array([1, 4]), STR, words("b", "_Unused"))):
        m = model("LabelEncoder", {"x": x}, (code,), domain=ML, version=1, classes_strings=["a", "b"])
        same(ours(m, {"x": x}), [want])


def test_tf_idf() -> None:
    for x, pool in (
        (np.array([1, 3, 3, 7, 8, 6]), {"pool_int64s": [2, 3, 5, 4, 5, 6, 7, 8, 6, 7]}),
        (words("a", "b", "c", "a", "b"), {"pool_strings": ["a", "z", "q", "b", "a", "b", "b", "c", "c", "b"]}),
    ):
        for mode in ("TF", "IDF", "TFIDF"):
            m = model(
                "TfIdfVectorizer",
                {"x": x},
                (F,),
                mode=mode,
                min_gram_length=1,
                max_gram_length=2,
                max_skip_count=1,
                ngram_counts=[0, 4],
                ngram_indexes=[6, 5, 4, 3, 2, 1, 0],
                weights=[1.0, 2, 3, 4, 5, 6, 7],
                **pool,
            )
            same(ours(m, {"x": x}), runtime(m, {"x": x}))


def test_string_normalizer() -> None:
    week = words("Monday", "tuesday", "MONDAY", "été")

    def result(**attrs: Any) -> list[str]:
        (got,) = ours(model("StringNormalizer", {"x": week}, (STR,), **attrs), {"x": week})
        return list(got.tolist())

    assert result() == week.tolist()
    assert result(case_change_action="UPPER") == ["MONDAY", "TUESDAY", "MONDAY", "ÉTÉ"]
    assert result(stopwords=["MONDAY"], is_case_sensitive=1) == ["Monday", "tuesday", "été"]
    assert result(stopwords=["monday"], is_case_sensitive=0, case_change_action="LOWER") == ["tuesday", "été"]
    assert result(stopwords=["monday", "TUESDAY", "Été"]) == [""]


def test_string_constants_are_kept_in_a_plan(timing_cache: Any, tmp_path: Any) -> None:
    from temper.builder import build_plan
    from temper.config import BuildConfig
    from temper.plan.file import read, write
    from temper.runtime.engine import Engine

    x = words("水", "", "no", "fig")
    m = model(
        "LabelEncoder", {"x": x}, (STR,), domain=ML, keys_strings=["水", "fig", ""], values_strings=["é", "b", "c"]
    )
    write(build_plan(m, BuildConfig(effort=0, cache=timing_cache)).plan, tmp_path / "p.plan")
    (got,) = Engine(read(tmp_path / "p.plan")).run({"x": x})
    assert got.tolist() == ["é", "c", "_Unused", "b"]


def test_graphs_with_strings_are_portable() -> None:
    from temper.ir.portable import from_bytes, to_bytes

    x = words("a", "é", "c")
    m = model("LabelEncoder", {"x": x}, (STR,), domain=ML, keys_strings=["é", "a"], values_strings=["1", "0\0"])
    graph = import_onnx(m)
    again = from_bytes(to_bytes(graph))
    assert again.hash() == graph.hash()
    assert evaluate(again, {"x": x})[0].tolist() == ["0\0", "1", "_Unused"]


def test_random_numbers() -> None:
    """A seed means the same numbers as in the onnx package's evaluator; without one every run draws others."""
    for op, attrs in (
        ("RandomUniform", {"low": -1.0, "high": 3.0}),
        ("RandomNormal", {"mean": 2.0, "scale": 0.5}),
    ):
        m = model(op, {}, (F,), shape=[3, 1, 5], seed=7.0, **attrs)
        same(ours(m, {}), ReferenceEvaluator(m).run(None, {}))
        free = import_onnx(model(op, {}, (F,), shape=[64], **attrs))
        assert not np.array_equal(evaluate(free, {})[0], evaluate(free, {})[0])
        like = model(f"{op}Like", {"x": X.astype(np.float64)}, (TensorProto.DOUBLE,), seed=7.0, **attrs)
        (drawn,) = ours(like, {"x": X.astype(np.float64)})
        assert drawn.dtype == np.float64 and drawn.shape == X.shape
    m = model("RandomNormal", {}, (F,), shape=[20000], seed=1.0, mean=3.0, scale=2.0)
    (many,) = ours(m, {})
    assert abs(many.mean() - 3) < 0.1 and abs(many.std() - 2) < 0.1


def test_draws_follow_their_probabilities() -> None:
    share = np.array([[0.1, 0.6, 0.3], [1.0, 0.0, 0.0]], np.float32)
    with np.errstate(divide="ignore"):
        x = np.log(share) + np.array([[2.0], [-5.0]], np.float32)
    (drawn,) = ours(model("Multinomial", {"x": x}, (TensorProto.INT32,), sample_size=5000, seed=3.0), {"x": x})
    counts = np.stack([np.bincount(row, minlength=3) for row in drawn]) / 5000
    np.testing.assert_allclose(counts, share, atol=0.03)
    p = np.full(10000, 0.3, np.float32)
    (hits,) = ours(model("Bernoulli", {"x": p}, (F,), seed=2.0), {"x": p})
    assert set(hits.tolist()) == {0.0, 1.0} and abs(hits.mean() - 0.3) < 0.02


def test_dropout_while_training() -> None:
    x = np.ones((50, 40), np.float32)
    weights = {"ratio": np.array(0.25, np.float32), "training": np.array(True)}
    m = model("Dropout", {"x": x}, (F, TensorProto.BOOL), constants=weights, seed=5)
    y, kept = ours(m, {"x": x})
    assert abs(kept.mean() - 0.75) < 0.05
    np.testing.assert_allclose(y, np.where(kept, 1 / 0.75, 0), rtol=1e-6)
    again, _ = ours(m, {"x": x})
    assert np.array_equal(y, again)


_STEP = {"t0": np.array(0, np.int64), "t3": np.array(3, np.int64)}


@pytest.mark.parametrize("step", ["t0", "t3"])
@pytest.mark.parametrize(
    ("op", "states", "attrs"),
    [
        ("Adagrad", 1, {"norm_coefficient": 0.01, "epsilon": 1e-5, "decay_factor": 0.1}),
        ("Adam", 2, {"norm_coefficient": 0.01, "alpha": 0.95, "beta": 0.1, "epsilon": 1e-7}),
        ("Momentum", 1, {"norm_coefficient": 0.01, "alpha": 0.9, "beta": 0.8, "mode": "standard"}),
        ("Momentum", 1, {"norm_coefficient": 0.01, "alpha": 0.9, "beta": 0.8, "mode": "nesterov"}),
    ],
)
def test_optimizer_steps(op: str, states: int, attrs: dict[str, Any], step: str) -> None:
    rng = np.random.default_rng(0)
    feeds: dict[str, np.ndarray] = {"r": np.array(0.1, np.float32), "t": _STEP[step]}
    for kind in ("x", "g", *("v", "h")[:states]):
        for k in range(2):
            feeds[f"{kind}{k}"] = np.abs(rng.standard_normal((3, k + 1))).astype(np.float32)
    m = model(op, feeds, (F,) * 2 * (1 + states), domain=TRAINING, **attrs)
    same(ours(m, feeds), ReferenceEvaluator(m).run(None, feeds))


def test_maps_are_refused_with_a_way_out() -> None:
    m = model("ZipMap", {"x": X}, (F,), domain=ML, classlabels_int64s=[0, 1, 2, 3])
    with pytest.raises(UnsupportedError, match="zipmap"):
        import_onnx(m, check_value_info=False)


def test_an_unreadable_image_is_an_input_error() -> None:
    data = np.arange(50, dtype=np.uint8)
    with pytest.raises(TemperError, match="not an image"):
        ours(model("ImageDecoder", {"x": data}, (TensorProto.UINT8,)), {"x": data})


def test_pillow_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    data = np.arange(50, dtype=np.uint8)
    with pytest.raises(UnsupportedError, match=r"temper-rt\[image\]"):
        ours(model("ImageDecoder", {"x": data}, (TensorProto.UINT8,)), {"x": data})


#: features whose data are strings, or whose labels are
_WITH_STRINGS = ("one_hot_strings", "classifier_strings")


@pytest.mark.parametrize("name", _FEATURES)
def test_engines_of_numeric_features_have_no_host_step(name: str, timing_cache: Any) -> None:
    from temper.builder import build_plan
    from temper.config import BuildConfig
    from temper.onnx_backend import host_steps
    from temper.runtime.engine import Engine

    op, attrs, x, outputs = _FEATURES[name]
    m = model(op, {"x": x}, outputs, domain=ML, **attrs)
    engine = Engine(build_plan(m, BuildConfig(effort=0, cache=timing_cache)).plan)
    same(engine.run({"x": x}), ours(m, {"x": x}))
    assert bool(host_steps(engine.plan)) == (name in _WITH_STRINGS)


def test_trees_with_an_open_batch(timing_cache: Any) -> None:
    from temper.builder import build_plan
    from temper.config import BuildConfig, Profile
    from temper.runtime.engine import Engine

    rng = np.random.default_rng(8)
    attrs = {**_tree_lists(rng, 11, 4, _KINDS[:1]), **_leaves(rng, "target", 11, 4, (0, 1))}
    m = model("TreeEnsembleRegressor", {"x": _DATA}, (F,), domain=ML, **attrs, n_targets=2)
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    config = BuildConfig(effort=0, threads=2, cache=timing_cache, profiles=(Profile.of(N=(1, 8, 50)),))
    engine = Engine(build_plan(m, config).plan)
    assert [r["tactic"].split()[0] for r in engine.report["regions"]] == ["cpu.trees"]
    (want,) = runtime(m, {"x": _DATA})
    for n in (1, 7, 8, 50):
        (got,) = engine.run({"x": _DATA[:n]})
        np.testing.assert_allclose(got, want[:n], rtol=1e-5, atol=1e-5)
        # a row's sum does not depend on the rows beside it
        assert np.array_equal(got[:1], engine.run({"x": _DATA[:1]})[0])
