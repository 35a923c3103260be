"""Harmless texts: names and values of strangers as they may stand in a page that escapes nothing."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 200  # characters of one text
# What HTML, a script or Plotly's own markup would take for its own, and the sign that looks like it
_LIKE = {ord(mark): like for mark, like in zip("<>&\"'`\\", "\u2039\u203a\uff06\u201d\u2019\u2018\uff3c", strict=True)}


def harmless(texts: Iterable[str]) -> dict[str, str]:
    """Each of *texts* → one that no page takes for markup, on one line; two different ones stay different."""
    made: dict[str, str] = {}
    taken: set[str] = set()
    for text in texts:
        if text in made:
            continue
        printable = "".join(mark if mark.isprintable() else "\ufffd" for mark in text[:LONGEST]).translate(_LIKE)
        shown = printable if len(text) <= LONGEST else f"{printable}…"
        number = 1
        while (found := shown if number == 1 else f"{shown} ({number})") in taken:
            number += 1
        taken.add(found)
        made[text] = found
    return made
