"""What clients accept, and what they get."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bentos.serving.wire.interface import NotAcceptableError
from bentos.serving.wire.negotiation import choose

NPY, ARROW = "application/x-npy", "application/vnd.apache.arrow.stream"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", "json"),
        ("*/*", "json"),
        ("application/*", "json"),
        ("application/json", "json"),
        ("Application/JSON; charset=utf-8", "json"),
        (NPY, "npy"),
        (ARROW, "arrow"),
        (f"{NPY}, {ARROW}", "npy"),
        (f"{NPY}, {ARROW}, */*", "json"),
        (f"{NPY};q=0.5, {ARROW};q=0.7", "arrow"),
        (f"{ARROW}, */*;q=0.1", "arrow"),
        (f"{NPY};q=0, */*", "json"),
        ("application/json;q=0, */*", "npy"),
        ("application/*;q=0, */*;q=1, " + ARROW, "arrow"),
        ("*/*;q=0.2, application/json;q=0.1", "npy"),
        ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", "json"),
        (f'text/plain;note="a, {NPY}", {ARROW}', "arrow"),
        (f"{NPY};q=high, application/json;q=0.001", "json"),
        (f" , {NPY} ; q = 1.000 ,", "npy"),
    ],
)
def test_the_best_liked_format_is_taken(accept: str, wanted: str) -> None:
    assert choose(accept) == wanted
    assert choose(accept) == wanted  # remembered


@pytest.mark.parametrize("accept", ["text/html", "image/*", "application/json;q=0", "*/*;q=0", "nonsense", ","])
def test_what_cannot_be_had_says_what_can(accept: str) -> None:
    for _ in range(2):
        with pytest.raises(
            NotAcceptableError, match=rf"expected one of application/json, {NPY}, {ARROW} or \*/\*, found"
        ):
            choose(accept)


@given(
    st.text(max_size=100)
    | st.lists(st.sampled_from([NPY, ARROW, "*/*", ";q=0.5", ";q=2", ",", '"', "\\"])).map("".join)
)
def test_no_text_does_more_than_raise(accept: str) -> None:
    with contextlib.suppress(NotAcceptableError):
        assert choose(accept) in ("json", "npy", "arrow")
