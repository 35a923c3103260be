"""Whether a server may go from one signature to another without a client noticing."""

from __future__ import annotations

from bentos.serving.inputs.signature import Signature


def incompatibility(old: Signature, new: Signature) -> str:
    """Why a request that fits *old* may not fit *new*, in one line; "" where every one does.

    A new column must be optional, a column of both must keep its type and may not become required; tensors and params
    must be the same, but for params that are new.
    """
    if bool(old.columns) != bool(new.columns):
        return "one takes columns, the other tensors"
    reason = _columns(old, new) if old.columns else _tensors(old, new)
    known = {param.name: param for param in new.params}
    for param in old.params:
        if param.name not in known:
            return reason or f"param {param.name!r} is gone"
        if known[param.name].type != param.type:
            return reason or f"param {param.name!r} was {param.type}, is {known[param.name].type}"
    return reason


def _columns(old: Signature, new: Signature) -> str:
    for name, column in new.columns.items():
        earlier = old.columns.get(name)
        if earlier is None:
            if column.required:
                return f"column {name!r} ({column.type}) is new and required"
        elif earlier.type != column.type:
            return f"column {name!r} was {earlier.type}, is {column.type}"
        elif column.required and not earlier.required:
            return f"column {name!r} was optional, is required"
    return ""


def _tensors(old: Signature, new: Signature) -> str:
    return "" if old.inputs == new.inputs else f"the tensors were {old.inputs}, are {new.inputs}"
