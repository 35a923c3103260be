"""A real browser: Debian's chromium without a window, driven by its own protocol over a pipe."""

from __future__ import annotations

import itertools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
TOLD = ("--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--mute-audio")
SECONDS = 60.0
AS_3_AND_4 = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(read, 3); os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""  # where the browser expects its pipe


class Browser:
    """One browser process; a page at a time, each with cookies and storage of its own."""

    def __init__(self, process: subprocess.Popen[bytes], read: int, write: int) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self._read, self._write = read, write
        self._ids = itertools.count(1)
        self._left = b""

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The result of one call of the DevTools protocol; events that come meanwhile are kept."""
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while True:
            for answer in self._messages(max(0.0, end - time.monotonic())):
                if answer.get("id") == number:
                    assert "error" not in answer, (method, answer["error"])
                    return dict(answer["result"])
            assert time.monotonic() < end, f"{method} was not answered"

    def idle(self, seconds: float) -> None:
        """Listens for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._messages(left)

    def _messages(self, seconds: float) -> list[dict[str, Any]]:
        if not select.select([self._read], [], [], min(seconds, 0.2))[0]:
            return []
        block = os.read(self._read, 1 << 20)
        assert block, "the browser has ended"
        *whole, self._left = (self._left + block).split(b"\0")
        found = [json.loads(one) for one in whole]
        self.events += [one for one in found if "method" in one]
        return found

    @contextmanager
    def page(self) -> Iterator[Page]:
        """A page of its own, closed afterwards."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.events.clear()
        page = Page(self, session)
        page.enable(session)
        try:
            yield page
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)


@dataclass
class Page:
    """One page with the frames in it."""

    browser: Browser
    session: str
    _sessions: set[str] = field(default_factory=set)

    def enable(self, session: str) -> None:
        self._sessions.add(session)
        self.browser.call("Target.setAutoAttach", session, autoAttach=True, waitForDebuggerOnStart=False, flatten=True)
        for domain in ("Page", "Runtime", "Network", "Log"):
            with suppress(AssertionError):  # a worker has no Page
                self.browser.call(f"{domain}.enable", session)

    def go(self, url: str) -> None:
        """Opens *url*; whatever was there is left."""
        self.browser.call("Page.navigate", self.session, url=url)

    def texts(self) -> list[str]:
        """What is to be read in the page and in each of its frames."""
        return [str(text) for text in self.evaluate("document.body ? document.body.innerText : ''")]

    def evaluate(self, expression: str) -> list[Any]:
        """The value of *expression* in the page and in each of its frames."""
        for event in list(self.browser.events):
            if event["method"] == "Target.attachedToTarget" and event["params"]["sessionId"] not in self._sessions:
                with suppress(AssertionError):
                    self.enable(event["params"]["sessionId"])
        values = []
        for session, context in self._contexts():
            with suppress(AssertionError):  # it is gone meanwhile
                found = self.browser.call(
                    "Runtime.evaluate", session, expression=expression, contextId=context, returnByValue=True
                )
                values.append(found["result"].get("value"))
        return values

    def shows(self, pattern: str, seconds: float = SECONDS) -> str:
        """Waits until the page or a frame shows what the regular expression *pattern* finds; all that is shown."""
        end = time.monotonic() + seconds
        while True:
            shown = "\n".join(self.texts())
            if re.search(pattern, shown):
                return shown
            assert time.monotonic() < end, f"{self.address()} does not show {pattern!r}, but:\n{shown[:3000]}"
            self.browser.idle(0.3)

    def address(self) -> str:
        """Where the page is."""
        history = self.browser.call("Page.getNavigationHistory", self.session)
        return str(history["entries"][history["currentIndex"]]["url"])

    def statuses(self) -> dict[str, int]:
        """The HTTP status of each address that answered."""
        answers = (one["params"]["response"] for one in self._events("Network.responseReceived"))
        return {answer["url"]: int(answer["status"]) for answer in answers}

    def said(self) -> list[str]:
        """What stands in the console: violations of a policy, errors of scripts."""
        entries = [one["params"]["entry"]["text"] for one in self._events("Log.entryAdded")]
        thrown = [one["params"]["exceptionDetails"] for one in self._events("Runtime.exceptionThrown")]
        return entries + [str(one.get("exception", {}).get("description", one["text"])) for one in thrown]

    def _events(self, method: str) -> list[dict[str, Any]]:
        return [one for one in self.browser.events if one["method"] == method]

    def _contexts(self) -> list[tuple[str, int]]:
        """The contexts of scripts that are there now, frames of other processes included."""
        found: dict[tuple[str, int], None] = {}
        for event in self.browser.events:
            session = event.get("sessionId", self.session)
            match event["method"]:
                case "Runtime.executionContextCreated" if (
                    event["params"]["context"].get("auxData", {}).get("isDefault")
                ):
                    found[session, event["params"]["context"]["id"]] = None
                case "Runtime.executionContextDestroyed":
                    found.pop((session, event["params"]["executionContextId"]), None)
                case "Runtime.executionContextsCleared":
                    found = {key: None for key in found if key[0] != session}
                case "Target.detachedFromTarget":
                    found = {key: None for key in found if key[0] != event["params"]["sessionId"]}
        return list(found)


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser with a profile of its own, ended with all of its processes afterwards."""
    assert CHROMIUM is not None
    there, write = os.pipe()
    read, back = os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = [*TOLD, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        command = [CHROMIUM, "--headless=new", *options, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        with (Path(profile) / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", AS_3_AND_4, str(there), str(back), *command, "about:blank"],
                pass_fds=(there, back),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "HOME": profile},
                start_new_session=True,
            )
        os.close(there)
        os.close(back)
        try:
            yield Browser(process, read, write)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=30)
            os.close(read)
            os.close(write)
