"""Signatures: which one may take another's place without a client noticing."""

from __future__ import annotations

import pytest

from bentos.serving.inputs.compatible import incompatibility
from bentos.serving.inputs.signature import Column, Param, Signature, Tensor


def columns(**kinds: str) -> Signature:
    return Signature(tuple(Column(name, kind.rstrip("?"), not kind.endswith("?")) for name, kind in kinds.items()))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (columns(a="double", b="long"), columns(b="long", a="double"), ""),
        (columns(a="double", b="long"), columns(a="double"), ""),
        (columns(a="double"), columns(a="double", b="long?"), ""),
        (columns(a="double"), columns(a="double?"), ""),
        (columns(a="double"), columns(a="double", b="long"), "column 'b' (long) is new and required"),
        (columns(a="double"), columns(a="string"), "column 'a' was double, is string"),
        (columns(a="double?"), columns(a="double"), "column 'a' was optional, is required"),
        (columns(a="double"), Signature((Tensor(None, "float64", (-1, 1)),)), "one takes columns, the other tensors"),
        (Signature((Tensor("x", "float32", (-1, 2)),)), Signature((Tensor("x", "float32", (-1, 2)),)), ""),
        (
            Signature((Column("a", "long"),), (), (Param("k", "long", 1),)),
            columns(a="long"),
            "param 'k' is gone",
        ),
    ],
)
def test_incompatible_signatures_are_named(old: Signature, new: Signature, reason: str) -> None:
    assert incompatibility(old, new) == reason


def test_tensors_must_be_the_same() -> None:
    old, new = Signature((Tensor("x", "float32", (-1, 2)),)), Signature((Tensor("x", "float32", (-1, 3)),))
    assert "shape=(-1, 3)" in incompatibility(old, new)
