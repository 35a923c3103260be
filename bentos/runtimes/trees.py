"""Tree ensembles as treelite reads them: their thresholds, and an ONNX graph of them whose every number is a double."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bentos.runtimes.candidate import NotConvertedError
from bentos.serving.errors import brief

SINGLES = ("RandomForest", "ExtraTrees", "GradientBoosting")
"""scikit-learn's ensembles that compare floats, whatever they are given."""

AFTER = {"identity": (), "identity_multiclass": (), "sigmoid": ("Sigmoid",), "softmax": ("Softmax",), "exponential": ("Exp",)}  # fmt: skip
"""treelite's name of what is done to the sum of the leaves, as ONNX's operators."""


LIGHTGBM_ZERO = float(np.float32(1e-35))
"""LightGBM takes values of at most this magnitude for zero before it compares them (kZeroThreshold of its meta.h)."""


@dataclass(frozen=True)
class Trees:
    """``model`` is treelite's; ``raw`` its JSON; ``single``: values are cast to floats before they are compared;
    ``zero``: the largest magnitude that is taken for zero before."""

    model: Any
    raw: Mapping[str, Any]
    single: bool
    zero: float = 0.0

    @property
    def doubles(self) -> bool:
        """Whether thresholds and leaves are doubles."""
        return str(self.raw["threshold_type"]) == "float64"

    @property
    def several(self) -> int:
        """The number of outputs that are no classes of one another."""
        return int(self.raw["num_target"])

    def thresholds(self) -> np.ndarray:
        """[n x 2]: the column and the threshold of every numerical split, each once."""
        found = {
            (node["split_feature_id"], node["threshold"])
            for tree in self.raw["trees"]
            for node in tree["nodes"]
            if node.get("node_type") == "numerical_test_node"
        }
        return np.array(sorted(found), dtype=np.float64).reshape(-1, 2)

    def splits(self, rng: np.random.Generator, most: int) -> list[Split]:
        """The numerical splits of every tree with the way to each; at most ``most``, drawn from all."""
        total = sum(tree["num_nodes"] for tree in self.raw["trees"])
        kept = set(rng.choice(total, 2 * most, replace=False).tolist()) if total > 2 * most else None
        found: list[Split] = []
        first = 0
        for tree in self.raw["trees"]:
            wanted = None if kept is None else {number for number in range(tree["num_nodes"]) if first + number in kept}
            found += _ways(tree["nodes"], wanted)
            first += tree["num_nodes"]
        return found[:most] if kept is None else found


@dataclass(frozen=True)
class Split:
    """A split of a tree: its column, its threshold, and between which values (column → above, up to) a row gets there."""

    column: int
    threshold: float
    way: Mapping[int, tuple[float, float]]


def _ways(nodes: list[dict[str, Any]], wanted: set[int] | None) -> list[Split]:
    by_number = {node["node_id"]: node for node in nodes}
    waiting: list[tuple[int, dict[int, tuple[float, float]]]] = [(nodes[0]["node_id"], {})]
    found = []
    while waiting:
        number, way = waiting.pop()
        node = by_number[number]
        if "leaf_value" in node:
            continue
        left, right = dict(way), dict(way)
        if node["node_type"] == "numerical_test_node":
            column, threshold = int(node["split_feature_id"]), float(node["threshold"])
            if wanted is None or number in wanted:
                found.append(Split(column, threshold, way))
            above, up_to = way.get(column, (-np.inf, np.inf))
            edge = threshold if node["comparison_op"] == "<=" else float(np.nextafter(threshold, -np.inf))
            left[column], right[column] = (above, min(up_to, edge)), (max(above, edge), up_to)
        waiting += [(node["left_child"], left), (node["right_child"], right)]
    return found


def read(estimator: Any) -> Trees | None:
    """*estimator* as treelite reads it, None where it is no ensemble of trees.

    Raises NotConvertedError with treelite's reason.
    """
    library, name = type(estimator).__module__.partition(".")[0], type(estimator).__name__
    try:
        if library == "lightgbm":
            return _trees(_lightgbm(estimator), single=False, zero=LIGHTGBM_ZERO)
        if library == "xgboost":
            return _trees(_xgboost(estimator), single=True)
        single = name.removesuffix("Classifier").removesuffix("Regressor") in SINGLES
        if library == "sklearn" and (single or name.startswith("HistGradientBoosting")):
            from treelite.sklearn import import_model

            return _trees(import_model(estimator), single=single)
    except Exception as error:
        raise NotConvertedError(f"treelite cannot read it: {brief(error)}") from error
    return None


def _lightgbm(estimator: Any) -> Any:
    from treelite import frontend

    return frontend.from_lightgbm(getattr(estimator, "booster_", estimator))


def _xgboost(estimator: Any) -> Any:
    from treelite import frontend

    booster = estimator.get_booster() if hasattr(estimator, "get_booster") else estimator
    best = getattr(estimator, "best_iteration", None) if booster.attributes().get("best_iteration") else None
    return frontend.from_xgboost(booster if best is None else booster[: best + 1])


def _trees(model: Any, *, single: bool, zero: float = 0.0) -> Trees:
    return Trees(model, json.loads(model.dump_as_json(pretty_print=False)), single, zero)


def to_onnx(trees: Trees) -> bytes:
    """The ONNX graph ``x`` → ``scores`` of *trees*, by the operator TreeEnsemble of ai.onnx.ml 5; its numbers are doubles.

    Raises NotConvertedError for what the operator cannot say: categories, several outputs, other links than AFTER's.
    """
    from onnx import TensorProto, helper, numpy_helper

    raw = trees.raw
    classes = max(int(raw["num_class"][0]), 1)
    ensemble = _ensemble(trees, classes)
    double, last = TensorProto.DOUBLE, "sums"
    given = "wide" if trees.single else "x"
    nodes = [helper.make_node("Cast", ["x"], ["wide"], to=double)] if trees.single else []
    given_as: dict[str, Any] = {name: numpy_helper.from_array(array, name) for name, array in ensemble.arrays().items()}
    given_as |= ensemble.lists()
    nodes.append(
        helper.make_node(
            "TreeEnsemble",
            [given],
            [last],
            domain="ai.onnx.ml",
            n_targets=classes,
            aggregate_function=1,
            post_transform=0,
            **given_as,
        )
    )
    constants: list[Any] = []
    steps = [("Div", np.array([float(len(raw["trees"]))]))] if raw["average_tree_output"] else []
    for operator, value in [*steps, ("Add", np.array(raw["base_scores"], dtype=np.float64))]:
        if operator == "Add" and not value.any():
            continue
        constants.append(numpy_helper.from_array(value, f"c{len(constants)}"))
        nodes.append(helper.make_node(operator, [last, constants[-1].name], [f"{last}_{operator}"]))
        last = f"{last}_{operator}"
    for operator in AFTER[raw["postprocessor"]]:
        nodes.append(helper.make_node(operator, [last], [f"{last}_{operator}"]))
        last = f"{last}_{operator}"
    nodes.append(helper.make_node("Identity", [last], ["scores"]))
    kind = TensorProto.FLOAT if trees.single else double
    graph = helper.make_graph(
        nodes,
        "trees",
        [helper.make_tensor_value_info("x", kind, [None, raw["num_feature"]])],
        [helper.make_tensor_value_info("scores", double, [None, classes])],
        constants,
    )
    sets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 5)]
    content: bytes = helper.make_model(graph, opset_imports=sets, ir_version=9).SerializeToString()
    return content


def _ensemble(trees: Trees, classes: int) -> _Ensemble:
    """Every tree of *trees*, which have so many *classes*. Raises NotConvertedError."""
    raw = trees.raw
    if raw["num_target"] != 1:
        raise NotConvertedError(f"ONNX's trees have one output, it has {raw['num_target']}")
    if raw["postprocessor"] not in AFTER or raw["sigmoid_alpha"] != 1.0:
        raise NotConvertedError(f"no ONNX operator for its link {raw['postprocessor']} ({raw['sigmoid_alpha']})")
    ensemble = _Ensemble(trees.zero)
    vectors = raw["leaf_vector_shape"][1] > 1
    for number, tree in enumerate(raw["trees"]):
        # a leaf of ONNX has one value: of vectors a tree for each class, summed in the same order
        for output in range(classes) if vectors else (max(raw["class_id"][number], 0),):
            ensemble.add(tree["nodes"], output, vector=vectors)
    return ensemble


class _Ensemble:
    """The attributes of ONNX's TreeEnsemble, filled tree by tree. Inner nodes and leaves are numbered apart."""

    def __init__(self, zero: float) -> None:
        self._zero = zero
        self._roots: list[int] = []
        self._inner: list[tuple[int, float, int, int, int, int, int, int]] = []
        self._leaves: list[tuple[float, int]] = []

    def add(self, nodes: list[dict[str, Any]], output: int, *, vector: bool) -> None:
        """One tree, whose leaves add to *output*; of leaves that are vectors the value at *output*."""
        place: dict[int, tuple[int, int]] = {}  # node → (whether it is a leaf, its number)
        inner = len(self._inner)
        for node in nodes:
            if "leaf_value" in node:
                place[node["node_id"]] = (1, len(self._leaves))
                value = node["leaf_value"]
                self._leaves.append((value[output] if vector else value, output))
            else:
                place[node["node_id"]] = (0, inner)
                inner += 1
        self._roots.append(len(self._inner))
        for node in nodes:
            if "leaf_value" not in node:
                self._inner.append(_split(node, place, self._zero))
        if inner == self._roots[-1]:  # a tree of one leaf is a split both of whose sides are that leaf
            leaf = place[nodes[0]["node_id"]][1]
            self._inner.append((0, 0.0, 0, 0, leaf, 1, leaf, 1))

    def arrays(self) -> dict[str, np.ndarray]:
        """The attributes that are tensors."""
        return {
            "nodes_splits": np.array([node[1] for node in self._inner], dtype=np.float64),
            "nodes_modes": np.array([node[2] for node in self._inner], dtype=np.uint8),
            "leaf_weights": np.array([leaf[0] for leaf in self._leaves], dtype=np.float64),
        }

    def lists(self) -> dict[str, list[int]]:
        """The attributes that are lists."""
        names = {
            "nodes_featureids": 0,
            "nodes_missing_value_tracks_true": 3,
            "nodes_truenodeids": 4,
            "nodes_trueleafs": 5,
            "nodes_falsenodeids": 6,
            "nodes_falseleafs": 7,
        }
        columns = {name: [int(node[place]) for node in self._inner] for name, place in names.items()}
        return {**columns, "tree_roots": self._roots, "leaf_targetids": [leaf[1] for leaf in self._leaves]}


def _split(
    node: Mapping[str, Any], place: Mapping[int, tuple[int, int]], zero: float
) -> tuple[int, float, int, int, int, int, int, int]:
    if node["node_type"] != "numerical_test_node" or node["comparison_op"] not in ("<=", "<"):
        raise NotConvertedError("ONNX's trees here split numbers by <= or <, it splits categories or otherwise")
    left, right = place[node["left_child"]], place[node["right_child"]]
    mode = 0 if node["comparison_op"] == "<=" else 1
    threshold = float(node["threshold"])
    if zero and abs(threshold) <= zero:  # as if what lies between were zero: it is on one side, whatever it is
        threshold = zero if threshold >= 0 else float(np.nextafter(-zero, -np.inf))
    first = (int(node["split_feature_id"]), threshold, mode, int(node["default_left"]))
    return (*first, left[1], left[0], right[1], right[0])
