"""Reading signatures from MLmodel files."""

from __future__ import annotations

import json

import pytest
import yaml

from bentos.serving.inputs.signature import Column, Param, SignatureError, Tensor, load_signature, parse_signature


def parsed(inputs, outputs=(), params=()):
    """The signature with these specs as MLflow writes them."""
    return parse_signature(
        {"inputs": json.dumps(inputs), "outputs": json.dumps(list(outputs)), "params": json.dumps(list(params))}, "m"
    )


def test_columns_tensors_and_params_are_read():
    found = parsed(
        [{"type": "long", "name": "n", "required": True}, {"type": "string", "name": "s", "required": False}],
        [{"type": "tensor", "name": "y", "tensor-spec": {"dtype": "float32", "shape": [-1, 2]}}],
        [{"name": "k", "type": "double", "default": 0.5, "shape": None}],
    )
    assert found.inputs == (Column("n", "long", True, "n"), Column("s", "string", False, "s"))
    assert found.outputs == (Tensor("y", "float32", (-1, 2)),)
    assert found.params == (Param("k", "double", 0.5),)


def test_nested_types_keep_their_json():
    (column,) = parsed([{"type": "array", "items": {"type": "double"}, "name": "v", "required": True}]).inputs
    assert json.loads(column.type) == {"type": "array", "items": {"type": "double"}}


def test_names_that_are_numbers_or_missing_keep_their_label():
    assert parsed([{"type": "long", "name": 3}]).inputs == (Column("3", "long", True, 3),)
    assert parsed([{"type": "long"}]).inputs == (Column("", "long", True, None),)


def write(folder, document):
    """A folder with this MLmodel."""
    folder.mkdir(exist_ok=True)
    (folder / "MLmodel").write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return folder


@pytest.mark.parametrize("signature", [None, {}, {"inputs": None, "outputs": "[]"}])
def test_no_signature_says_the_line_that_adds_one(tmp_path, signature):
    folder = write(tmp_path / "m", {"flavors": {"sklearn": {}}, "signature": signature})
    with pytest.raises(SignatureError, match=r"no signature.*signature=mlflow\.models\.infer_signature\(X"):
        load_signature(folder)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("a: [", "cannot be read"),
        ("just text", "lists no flavors"),
        ({"flavors": {"sklearn": {}}, "signature": {"inputs": "[{"}}, "cannot be read"),
        ({"flavors": {"sklearn": {}}, "signature": {"inputs": '[{"type": "duration", "name": "d"}]'}}, "duration"),
        ({"flavors": {"sklearn": {}}, "signature": {"inputs": "[]"}}, "empty"),
    ],
)
def test_damage_is_named(tmp_path, document, words):
    with pytest.raises(SignatureError, match=words):
        load_signature(write(tmp_path / "m", document))


def test_a_folder_without_mlmodel_is_named(tmp_path):
    with pytest.raises(SignatureError, match="holds no MLmodel"):
        load_signature(tmp_path)
