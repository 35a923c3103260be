"""What a bench starts is ended with everything that it started."""

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.processes import SERVERS_CORE, Processes, ServerEndedError, cpu_seconds, pin, tree

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open("child", "w").write(str(child.pid))
time.sleep(60)
"""


def test_a_process_that_ignores_sigterm_ends_with_its_child(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.processes.END_SECONDS", 0.3)
    with Processes(tmp_path) as processes:
        pid = processes.start("stubborn", [sys.executable, "-c", STUBBORN])
        child = tmp_path / "child"
        processes.wait(pid, lambda: child.exists() and child.read_text() != "", 20)
        assert len(tree(pid)) == 2
    assert not psutil.pid_exists(pid)
    deadline = time.monotonic() + 5
    while psutil.pid_exists(int(child.read_text())) and psutil.Process(int(child.read_text())).status() != "zombie":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_server_that_ends_is_an_error_with_its_log(tmp_path):
    with Processes(tmp_path) as processes:
        pid = processes.start("broken", [sys.executable, "-c", "raise SystemExit('no model there')"])
        with pytest.raises(ServerEndedError, match="ended with 1:\nno model there"):
            processes.wait(pid, lambda: False, 20)


def test_processor_time_counts_what_a_tree_used(tmp_path):
    with Processes(tmp_path) as processes:
        busy = "sum(range(10_000_000)); open('done', 'w'); import time; time.sleep(60)"
        pid = processes.start("busy", [sys.executable, "-c", busy])
        processes.wait(pid, (tmp_path / "done").exists, 30)
        assert cpu_seconds([pid]) > 0.05
    assert cpu_seconds([pid]) == 0


PINNED = """
import os, subprocess, sys, threading, time
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
open("ready", "w").close()
while not os.path.exists("pinned"):
    time.sleep(0.01)
said = subprocess.run([sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"], capture_output=True, text=True)
open("later.new", "w").write(said.stdout.strip())
os.rename("later.new", "later")
time.sleep(60)
"""


def test_a_server_and_what_it_starts_stay_on_its_core(tmp_path):
    with Processes(tmp_path) as processes:
        pid = processes.start("pinned", [sys.executable, "-c", PINNED])
        processes.wait(pid, (tmp_path / "ready").exists, 20)
        pin([pid], SERVERS_CORE)
        tasks = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
        assert len(tasks) == 2
        assert all(os.sched_getaffinity(task) == SERVERS_CORE for task in tasks)
        (tmp_path / "pinned").touch()
        processes.wait(pid, (tmp_path / "later").exists, 20)
        assert (tmp_path / "later").read_text() == str(SERVERS_CORE)
