"""``make demo-kill`` as it is run beside the services: without a terminal, and on one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.acceptance.terminal import terminal
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
DEMO = [sys.executable, "-m", "tests.demo"]


@pytest.fixture
def environment(tmp_path: Path, broker_url: str, postgres_url: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "LANG": "C.UTF-8",
        "FLOW_TEST_BROKER_URL": broker_url,
        "FLOW_TEST_DATABASE_URL": postgres_url,
        # A user's own, which the demo must leave alone.
        "FLOW_BROKER_URL": "amqp://guest:guest@127.0.0.1:1/",
        "FLOW_DATABASE_URL": "postgresql://flow@127.0.0.1:1/flow",
        "FLOW_LEASE_HEARTBEAT_INTERVAL": "nonsense",
    }


def left_behind(folder: Path) -> list[str]:
    """Processes that know of *folder* by their arguments or their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            known = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue  # it has ended, or is none of ours
        if str(folder).encode() in known and int(entry.name) != os.getpid():
            found.append((entry / "comm").read_text().strip())
    return found


@pytest.mark.slow
def test_an_agent_is_killed_under_load_and_nothing_is_lost(
    environment: dict[str, str], tmp_path: Path
) -> None:
    svg = tmp_path / "demo.svg"
    done = subprocess.run(
        [*DEMO, "--svg", str(svg)],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    *story, last = done.stdout.splitlines()
    print(last)
    assert re.fullmatch(r"lost 0, twice 0, recovered in \d+\.\d s", last)
    (kill,) = [line for line in story if "kill -9" in line]
    interrupted = re.findall(r"part_\d\d", kill)
    assert len(interrupted) == 3
    (again,) = [line for line in story if "running again" in line]
    assert sorted(re.findall(r"part_\d\d", again)) == interrupted
    text = svg.read_text(encoding="utf-8")
    drawn = ET.fromstring(text)  # noqa: S314 - of our own making
    shown = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert last in shown
    assert not [char for char in text if not char.isprintable() and char != "\n"]
    until(lambda: left_behind(tmp_path) == [])


@pytest.mark.slow
def test_on_a_terminal_it_can_be_left_in_the_middle_and_leaves_nothing_behind(
    environment: dict[str, str], tmp_path: Path
) -> None:
    environment["TERM"] = "xterm-256color"
    with terminal(environment, 100, 30) as shown:
        shown.type(f"cd {ROOT} && {' '.join(DEMO)}; echo ended $?")
        screen = shown.until(lambda screen: any("kill -9 node" in line for line in screen), 60)
        assert any(line.startswith("AGENTS 3") for line in screen)
        assert any(line.endswith("q quits") for line in screen)
        shown.press("q")
        screen = shown.until(lambda screen: "ended 1" in screen)
        assert "demo: stopped before its end" in screen
        assert shown.state("alternate_on", "cursor_flag") == ["0", "1"]
    until(lambda: left_behind(tmp_path) == [])


def test_without_services_it_says_what_to_run(environment: dict[str, str]) -> None:
    del environment["FLOW_TEST_BROKER_URL"]
    done = subprocess.run(
        DEMO, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        "demo: expected FLOW_TEST_BROKER_URL and FLOW_TEST_DATABASE_URL; run: make demo-kill\n"
    )
