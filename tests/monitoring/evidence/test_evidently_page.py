"""Evidently's page sealed, and texts made harmless; what a browser does with both: tests/infra/receiver/test_hostile_pages.py."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest

from monitoring.evidence.evidently_page import sealed
from monitoring.evidence.harmless import LONGEST, harmless
from monitoring.interface import PermanentMonitoringError

DATA = {"name": '</script><script>alert("x")</script>', "more": "a > b & c \u2028 \\u003c"}
PAGE = f"""<!DOCTYPE html><html><head><meta charset="UTF-8">
        <script>
    var metric_1 = {json.dumps(DATA)};
    var additional_graphs_metric_1 = {json.dumps({"g": "</script>"})};
</script>
</head><body><script>var global = globalThis</script>
    <script>"<script><\\/script>"</script>
    <script>window.drawDashboard(metric_1)</script>
</body></html>"""


def test_data_say_the_same_and_end_no_script():
    page = sealed(PAGE)
    assert page.count("</script>") == 4
    said = re.search(r"var metric_1 = (.*);", page)
    assert said is not None and "<" not in said[1] and json.loads(said[1]) == DATA


def test_the_policy_names_every_script_and_no_other():
    page = sealed(PAGE.replace("\n    <script>window", "\r\n    <script>window"))
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)">', page)
    assert policy is not None
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    wanted = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts}
    directives = dict(part.strip().split(" ", 1) for part in policy[1].split(";"))
    assert (
        directives["default-src"] == "'none'" and set(directives["script-src"].split()) == wanted and len(wanted) == 4
    )


@pytest.mark.parametrize(
    "page",
    [
        PAGE.replace("<script>var global", "<script>more()</script><script>var global"),
        PAGE.replace("var metric_1 = ", "let metric_1 = "),
        PAGE.replace('<meta charset="UTF-8">', ""),
    ],
)
def test_a_page_of_another_form_is_refused_with_what_to_do(page):
    with pytest.raises(PermanentMonitoringError, match=r"expected 4 and 1.*Pin that version"):
        sealed(page)


def test_harmless_texts_are_no_markup_and_stay_different():
    texts = ["plain", "<b>", "\u2039b\u203a", "a\nb", "a\tb", "x" * 500, "x" * 501, 'O\'Hare & "co"', "", "<b>"]
    found = harmless(texts)
    assert list(found) == list(dict.fromkeys(texts))
    assert len(set(found.values())) == len(found)
    assert found["plain"] == "plain" and not any(mark in text for text in found.values() for mark in "<>&\"'`\\\n\t")
    assert max(map(len, found.values())) <= LONGEST + 10
