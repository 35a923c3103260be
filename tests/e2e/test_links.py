"""Every address that Shipway prints, writes or documents, opened in a real browser over a real stack."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from examples.flights.demo import _pages
from examples.flights.report import DemoReport, ReleaseRow, write_report
from flows.stack.parts import choose_servers
from monitoring.ledger.release import Release
from tests.browser import Browser, Page, browsing, needs_chromium
from tests.e2e.stack import Stack, until
from tests.e2e.toy import QUICK, register_toy, write_policy
from tests.e2e.traffic import Traffic

pytestmark = [pytest.mark.e2e, pytest.mark.long("links"), pytest.mark.timeout(600), needs_chromium]
ROOT = Path(__file__).resolve().parents[2]
MODEL = "churn"  # as README and docs call it
DRIFT = {**QUICK["metrics"], "drift": {"min_rows": 20, "threshold": 50, "max_prediction_drift": 50}}
POLICY = {**QUICK, "metrics": DRIFT, "lease_seconds": 120}
LOST = re.compile(r"(?i)\b404\b|not found|does not exist|went wrong")
DEFAULT_PORTS = {15500: "mlflow", 14200: "prefect", 18080: "gateway", 18081: "receiver", 19901: "gateway_admin"}


@pytest.fixture(scope="module")
def release(stack: Stack) -> Iterator[Release]:
    """A release that was judged on traffic, with a drift page; the traffic goes on."""
    register_toy(stack, MODEL, versions=3)
    write_policy(stack, MODEL, POLICY)
    first = stack.flow("promote-model", model=MODEL, version="1")
    assert first.state == "COMPLETED", first.said
    with Traffic(f"{stack.settings.gateway_url}/models/{MODEL}/invocations", rate=30):
        second = stack.flow("promote-model", model=MODEL, version="2")
        assert second.state == "COMPLETED", second.said
        yield stack.ledger().releases(MODEL, limit=1)[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as made:
        yield made


def links_of(page: Page) -> list[str]:
    """The addresses that the page's links lead to."""
    found = page.evaluate("JSON.stringify([...document.querySelectorAll('a[href]')].map(a => a.href))")
    return [link for links in found for link in json.loads(links)]


def opened(browser: Browser, url: str, wanted: str) -> str:
    """What *url* shows once *wanted* is there; it must be no page that says that there is none."""
    with browser.page() as page:
        page.go(url)
        shown = page.shows(wanted)
        document = page.statuses().get(url.partition("#")[0].removesuffix("/")) or page.statuses().get(url)
        assert document in (None, 200), (url, document)
        assert not LOST.search(shown), (url, shown[:2000])
        return shown


def linked(stack: Stack) -> set[str]:
    """The addresses in Prefect's artifacts: in records and tables, and link artifacts, which are Markdown too."""
    url = f"{stack.settings.prefect_api_url}/artifacts/filter"
    found = httpx.post(url, json={"limit": 200}, trust_env=False, timeout=30).raise_for_status().json()
    return set(re.findall(r"https?://[^)\s\"']+", json.dumps([artifact["data"] for artifact in found])))


def wanted_at(url: str, release: Release) -> str:
    """What the page of an address of a release shows."""
    run = urlsplit(url).fragment.rpartition("/")[2] or url.split("/")[-2]
    if "#/experiments/" in url:
        return run
    return r"(?s)Drift|prediction: candidate_vs_baseline" if "drift-" in url else r"PROMOTED|ROLLED_BACK|INCONCLUSIVE"


def test_every_link_of_an_artifact_shows_the_page_meant(stack: Stack, release: Release, browser: Browser) -> None:
    links = linked(stack)
    assert any(f"/runs/{release.run_id}" in link for link in links), links
    assert any("/drift-" in link for link in links), links
    for link in sorted(links):
        opened(browser, link, wanted_at(link, release))


def test_mlflow_shows_that_very_run_and_no_other(stack: Stack, release: Release, browser: Browser) -> None:
    (link,) = {link for link in linked(stack) if release.run_id in link and "#" in link}
    shown = opened(browser, link, release.run_id)
    assert f"{MODEL}-2-1" in shown, "the run's name"
    with browser.page() as page:  # what the test would see of a link that names the experiment instead
        page.go(link.replace(f"/experiments/{release.experiment_id}/", f"/experiments/releases/{MODEL}/"))
        page.shows(LOST.pattern)


def test_the_report_and_the_index_lead_to_what_they_name(stack: Stack, release: Release, browser: Browser) -> None:
    for start in ("/reports", "/", f"/reports/{MODEL}/{release.run_id}/report.html"):
        with browser.page() as page:
            page.go(stack.settings.receiver_url + start)
            page.shows("PROMOTED|ROLLED_BACK|INCONCLUSIVE")
            links = set(links_of(page))
        assert any("#/experiments/" in link for link in links)
        for link in sorted(links):
            opened(browser, link, MODEL if "?model=" in link else wanted_at(link, release))


def test_a_link_of_the_report_can_be_followed_by_a_click(stack: Stack, release: Release, browser: Browser) -> None:
    with browser.page() as page:
        page.go(f"{stack.settings.receiver_url}/reports/{MODEL}/{release.run_id}/report.html")
        page.shows("mlflow run")
        spot = page.evaluate(
            "(() => { const r = document.querySelector('a[href*=experiments]').getBoundingClientRect();"
            " return [r.x + 5, r.y + r.height / 2]; })()"
        )[0]
        for kind in ("mousePressed", "mouseReleased"):
            browser.call(
                "Input.dispatchMouseEvent", page.session, type=kind, x=spot[0], y=spot[1], button="left", clickCount=1
            )
        page.shows(release.run_id)
        until(lambda: page.address().startswith(stack.settings.mlflow_url))


def test_every_address_of_status_answers(stack: Stack, release: Release, browser: Browser) -> None:
    found = stack.status()
    urls = {*found["urls"].values(), *(part["url"] for part in found["parts"] if part["url"])}
    assert urls == {
        stack.settings.mlflow_url,
        stack.settings.prefect_api_url.removesuffix("/api"),
        stack.settings.gateway_url,
        stack.settings.receiver_url,
    }
    opened(browser, stack.settings.mlflow_url, "Experiments")
    opened(browser, stack.settings.prefect_api_url.removesuffix("/api"), "Flow Runs|Dashboard")
    opened(browser, stack.settings.receiver_url, f"(?s)Releases.*{MODEL}")


def test_an_open_release_in_status_leads_to_its_run(stack: Stack, release: Release, browser: Browser) -> None:
    write_policy(
        stack, MODEL, {**POLICY, "approval": True, "split": {"steps": [20], "min_requests": 100, "max_seconds": 60}}
    )
    started = stack.start(MODEL, "3")
    seen: set[tuple[str, int]] = set()

    def waits() -> bool:
        for one in stack.status()["releases"]:
            seen.add((one["stage"], one["weight"]))
        return any(stage == "approval" for stage, _ in seen)

    until(waits, seconds=300)
    assert ("split-20", 20) in seen, seen
    (told,) = stack.status()["releases"]
    assert (told["model"], told["version"], told["owner"]["flow_run_id"]) == (MODEL, "3", started.id)
    assert "a person has" in " ".join(stack.run("status", COLUMNS="80").split())
    opened(browser, told["page"], told["run_id"])
    opened(
        browser, f"{stack.settings.prefect_api_url.removesuffix('/api')}/runs/flow-run/{started.id}", "promote-model"
    )
    until(
        lambda: (
            httpx.get(f"{stack.settings.prefect_api_url}/flow_runs/{started.id}", trust_env=False).json()["state_type"]
            == "PAUSED"
        )
    )
    stack.run("resume", started.id, "rollback")
    until(lambda: not stack.status()["releases"], seconds=120)


def test_every_address_that_the_demo_prints_and_writes(stack: Stack, release: Release, browser: Browser) -> None:
    pages = _pages(stack.settings, choose_servers(stack.settings, {}))
    row = ReleaseRow(2, "PROMOTE", "every gate passed", 1, 0, 0, 0.0, release.run_id, stack.status()["urls"]["mlflow"])
    write_report(DemoReport((row,), 1, 0, 1.0, urls=pages), stack.settings.root / "demo")
    wanted = {"Prefect": "Flow Runs|Dashboard", "MLflow": "Experiments", "Releases": MODEL, "Report": "every version"}
    assert set(pages) == set(wanted)
    for name, url in pages.items():
        opened(browser, url, f"(?i){wanted[name]}")
    with browser.page() as page:
        page.go(pages["Report"])
        page.shows("every gate passed")
        assert set(pages.values()) <= {link.removesuffix("/") for link in links_of(page)}


def documented() -> list[tuple[str, str]]:
    """The local addresses in README and docs, each with its page's name."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
    found = {
        (file.name, url.rstrip(".,;:'\""))
        for file in files
        for url in re.findall(r"https?://(?:127\.0\.0\.1|localhost)[^\s)`\"']*", file.read_text(encoding="utf-8"))
    }
    return sorted(found)


@pytest.mark.parametrize(("file", "url"), documented())
def test_every_address_of_the_documentation_answers(
    stack: Stack, release: Release, browser: Browser, file: str, url: str
) -> None:
    parts = urlsplit(url)
    name = DEFAULT_PORTS.get(parts.port or 0)
    if name is None:
        pytest.skip(f"{url}: no port of the stack")
    here = url.replace(f":{parts.port}", f":{getattr(stack.settings, f'{name}_port')}").replace("<name>", MODEL)
    programs = parts.path == "/api"  # the base of an API, which has no page of its own
    answer = httpx.get(f"{here}/health" if programs else here, trust_env=False, timeout=30, follow_redirects=True)
    if answer.status_code == 405:  # for programs alone: it takes what the page posts
        assert parts.path.endswith(("/labels", "/invocations", "/infer")), url
        return
    assert answer.status_code == 200, (file, here, answer.status_code)
    wanted = {"mlflow": "Experiments", "prefect": "Flow Runs|Dashboard", "receiver": "."}
    if name in wanted and not programs:
        opened(browser, here, wanted[name])
