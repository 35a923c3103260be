"""Bodies come out of gzip and deflate whole, or say why not, and never larger than allowed."""

from __future__ import annotations

import contextlib
import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bentos.serving.wire.compression import decompress
from bentos.serving.wire.interface import MediaTypeError, TooLargeError, WireError

BODY = b'{"inputs": [[1.0, 2.0]]}' * 20_000  # several pieces, even compressed
NOISE = bytes(zlib.crc32(n.to_bytes(4, "big")) & 0xFF for n in range(200_000))


def raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


@pytest.mark.parametrize("body", [b"", b"x", BODY, NOISE], ids=["empty", "one", "long", "noise"])
def test_each_coding_comes_out(body: bytes) -> None:
    for encoding, data in [
        ("gzip", gzip.compress(body)),
        ("x-gzip", gzip.compress(body)),
        ("GZIP", gzip.compress(body[:7]) + gzip.compress(body[7:]) + gzip.compress(b"")),
        ("deflate", zlib.compress(body)),
        ("deflate", raw_deflate(body)),
        ("deflate, gzip", gzip.compress(zlib.compress(body))),
        ("identity, gzip", gzip.compress(body)),
        ("", body),
    ]:
        assert decompress(data, encoding, max(len(body), len(NOISE) + 500)) == body


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br", "compress"])
def test_other_codings_are_named(encoding: str) -> None:
    with pytest.raises(MediaTypeError, match=f"expected gzip, deflate or none, found '{encoding.split()[-1]}'"):
        decompress(BODY, encoding, len(BODY))


def test_the_limit_is_exact_and_holds_for_all_members_together() -> None:
    for data, encoding in [
        (gzip.compress(BODY), "gzip"),
        (gzip.compress(BODY[:99]) + gzip.compress(BODY[99:]), "gzip"),
        (zlib.compress(BODY), "deflate"),
    ]:
        assert decompress(data, encoding, len(BODY)) == BODY
        with pytest.raises(TooLargeError, match=f"at most {len(BODY) - 1} bytes once decompressed"):
            decompress(data, encoding, len(BODY) - 1)


def test_a_bomb_takes_no_more_memory_than_the_limit() -> None:
    bomb = gzip.compress(gzip.compress(bytes(200 << 20)))
    tracemalloc.start()
    with pytest.raises(TooLargeError):
        decompress(bomb, "gzip, gzip", 1 << 20)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        (b"", "gzip", "a whole gzip stream"),
        (gzip.compress(BODY)[:-1], "gzip", "a whole gzip stream"),
        (gzip.compress(BODY)[:100], "gzip", "a whole gzip stream"),
        (BODY, "gzip", "expected gzip as the content-encoding says"),
        (gzip.compress(BODY) + b"garbage", "gzip", "expected gzip as the content-encoding says"),
        (gzip.compress(BODY)[:-8] + bytes(8), "gzip", "incorrect data check"),
        (zlib.compress(BODY)[:-1], "deflate", "a whole deflate stream"),
        (zlib.compress(BODY) + b"xy", "deflate", "nothing behind the deflate data, found 2 bytes"),
        (BODY, "deflate", "expected deflate as the content-encoding says"),
        (gzip.compress(b"") * 10_001, "gzip", "at most 10000 members"),
        (b"x", "gzip, gzip, gzip, gzip, gzip", "at most 4 codings"),
    ],
    ids=map(str, range(11)),  # a compressed body holds the time it was made, and ids must not change
)
def test_faulty_bodies_say_what_is_wrong(data: bytes, encoding: str, message: str) -> None:
    with pytest.raises(WireError, match=message):
        decompress(data, encoding, 1 << 20)


@given(st.binary(max_size=200) | st.binary(max_size=50).map(lambda rest: gzip.compress(BODY)[:60] + rest))
def test_no_bytes_do_more_than_raise(data: bytes) -> None:
    for encoding in ("gzip", "deflate"):
        with contextlib.suppress(WireError):
            assert len(decompress(data, encoding, 1000)) <= 1000
