"""``flow board`` in a real terminal, over the real system."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.system import BIN, System
from tests.acceptance.terminal import Terminal, terminal
from tests.proxy import Proxy
from tests.waiting import until

SIZES = [(80, 24), (160, 50)]

DAG = """
from pathlib import Path
from flow import DAG, BashOperator

with DAG("shown"):
    long = BashOperator(task_id="long", bash_command="sleep 300", queue="q1")
    more = BashOperator(task_id="more", bash_command="sleep 300", queue="q1")
    last = BashOperator(task_id="last", bash_command="true", queue="q2")
    [long, more] >> last
    BashOperator(task_id="bad", bash_command="exit 3", queue="q2")
    BashOperator(task_id="nowhere", bash_command="true", queue="gpuu")
"""


@pytest.fixture
def busy(system: System) -> System:
    """Two agents, tasks that run, one that failed, one that nobody serves, a broken DAG file."""
    system.write_dag("shown", DAG)
    system.write_dag("broken", "from flow import DAG\nimport nowhere_to_be_found\n")
    system.start_dispatcher()
    system.start_agent("node1", "q1")
    system.start_agent("node2", "q2", "spare")
    system.known("shown")
    run_id = system.flow("dags", "trigger", "shown").strip()

    def settled() -> bool:
        states = {name: row["state"] for name, row in system.tasks(run_id).items()}
        return (states["long"], states["more"], states["bad"], states["nowhere"]) == (
            *("running", "running"),
            *("failed", "queued"),
        )

    until(settled)
    until(lambda: bool(system.listing("dags", "errors")))
    return system


@contextmanager
def board(system: System, width: int, height: int) -> Iterator[Terminal]:
    """The board, as soon as it shows an agent."""
    with terminal(system.environment(), width, height) as shown:
        shown.type(f"{BIN}/flow board")
        shown.until(lambda screen: any(line.startswith("AGENTS") for line in screen))
        yield shown


def rows(screen: list[str], title: str) -> dict[str, list[str]]:
    """The rows of the section *title* by their first word; it may stand beside another one."""
    head = next(line for line in screen if re.search(rf"\b{title} \d", line))
    starts = [found.start() for found in re.finditer(r"[A-Z]+ \d", head)]
    start = next(start for start in starts if head[start:].startswith(title))
    end = next((later for later in starts if later > start), None)
    found: dict[str, list[str]] = {}
    for line in screen[screen.index(head) + 1 :]:
        words = line[start:end].split()
        if not words or words[0].isupper():
            break
        found[words[0]] = words[1:]
    return found


def listed_agents(system: System) -> dict[str, tuple[str, str, str]]:
    return {
        row["name"]: (f"{row['busy']}/{row['slots']}", row["state"], ", ".join(row["queues"]))
        for row in system.listing("agents", "list")
    }


def listed_queues(system: System) -> dict[str, tuple[str, ...]]:
    return {
        row["name"]: (str(row["waiting"]), str(row["running"]), str(row["agents"]))
        for row in system.listing("queues", "list")
    }


def shown_agents(screen: list[str]) -> dict[str, tuple[str, str, str]]:
    found = {}
    for name, words in rows(screen, "AGENTS").items():
        _, slots, _, state, *rest = words
        # After the state: how long ago it was heard, in one unit here, then its queues.
        found[name] = (slots, state, " ".join(rest[2:]))
    return found


def shown_queues(screen: list[str]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(words[:3]) for name, words in rows(screen, "QUEUES").items()}


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_board_shows_what_the_listings_say(busy: System, width: int, height: int) -> None:
    with board(busy, width, height) as shown:
        agents, queues = listed_agents(busy), listed_queues(busy)
        assert agents["node1"] == ("2/2", "online", "q1")
        assert queues["gpuu"] == ("1", "0", "0")
        screen = shown.until(
            lambda screen: (shown_agents(screen), shown_queues(screen)) == (agents, queues)
        )
        text = "\n".join(screen)
        assert len(screen) <= height
        assert max(map(len, screen)) <= width
        assert "q quits" in screen[-1]
        assert rows(screen, "QUEUES")["gpuu"][3:] == ["✗", "unserved"]
        assert rows(screen, "RUNS")["shown"][0] == "running"
        assert "1/5" in rows(screen, "RUNS")["shown"]
        assert "✗ shown.bad" in text
        assert "exit code 3" in text
        assert "broken.py" in text
        assert "No module named" in text


def test_the_board_follows_the_size_of_its_terminal(busy: System) -> None:
    with board(busy, 80, 24) as shown:
        shown.resize(160, 50)
        screen = shown.until(lambda screen: "q quits" in screen[-1][150:])
        assert len(screen) == 50 or "QUEUES" in next(x for x in screen if "AGENTS" in x)
        shown.resize(60, 15)
        screen = shown.until(lambda screen: len(screen) <= 15 and "q quits" in screen[-1])
        assert max(map(len, screen)) <= 60


@pytest.mark.slow
def test_a_killed_agent_shows_as_lost_within_20_seconds(system: System) -> None:
    system.start_dispatcher()
    victim = system.start_agent("node1", "q1")
    system.start_agent("node2", "q2")
    with board(system, 80, 24) as shown:
        shown.until(lambda screen: shown_agents(screen).get("node1", ("",) * 3)[1] == "online")
        victim.kill()
        killed = time.monotonic()
        screen = shown.until(lambda screen: shown_agents(screen)["node1"][1] == "lost", within=20)
        print(f"shown after {time.monotonic() - killed:.1f} s")
        assert shown_agents(screen)["node2"][1] == "online"
        # All the while, though nothing else went on.
        assert "● dispatcher " in screen[0]
        assert rows(screen, "QUEUES")["q1"][3:] in (["◐", "lost"], ["✗", "unserved"])


@pytest.mark.slow
def test_a_dispatcher_that_has_gone_is_told(system: System) -> None:
    dispatcher = system.start_dispatcher()
    with board(system, 80, 24) as shown:
        shown.until(lambda screen: "● dispatcher " in screen[0])
        dispatcher.kill()
        shown.until(lambda screen: "dispatcher: not heard for 1" in screen[0])
        system.start_dispatcher()
        shown.until(lambda screen: "● dispatcher " in screen[0])


# -- the terminal afterwards -----------------------------------------------------------------------


def with_shell(system: System) -> dict[str, str]:
    return system.environment(ENV="", TERM="xterm-256color")


@contextmanager
def begun(system: System, tmp_path: Path) -> Iterator[tuple[Terminal, Path]]:
    """A shell that has started the board, and will say how it ended in a file."""
    ended = tmp_path / "ended"
    with terminal(with_shell(system), 80, 24) as shown:
        shown.type(f"stty -g >{tmp_path}/before; echo work of the user")
        shown.until(lambda screen: "work of the user" in screen)
        line = f"{BIN}/flow board; echo $? >{ended}.tmp; stty -g >{tmp_path}/after"
        shown.type(f"{line}; mv {ended}.tmp {ended}")
        shown.until(lambda screen: "q quits" in screen[-1])
        assert shown.state("alternate_on", "cursor_flag") == ["1", "0"]
        yield shown, ended


def board_pid(shown: Terminal) -> int:
    (shell,) = shown.state("pane_pid")
    children = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
    return int(children[0])


@pytest.mark.parametrize(
    ("end", "code"), [("q", 0), ("C-c", 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_terminal_is_left_as_it_was(
    system: System, tmp_path: Path, end: str | int, code: int
) -> None:
    with begun(system, tmp_path) as (shown, ended):
        if isinstance(end, str):
            shown.press(end)
        else:
            os.kill(board_pid(shown), end)
        until(ended.exists)
        assert int(ended.read_text()) == code
        assert shown.state("alternate_on", "cursor_flag") == ["0", "1"]
        assert (tmp_path / "after").read_text() == (tmp_path / "before").read_text()
        screen = shown.until(lambda screen: "work of the user" in screen)
        assert "q quits" not in "\n".join(screen)


def test_a_stopped_board_gives_the_terminal_back_until_it_goes_on(
    system: System, tmp_path: Path
) -> None:
    with begun(system, tmp_path) as (shown, _):
        shown.press("C-z")
        shown.until(lambda screen: "work of the user" in screen)
        assert shown.state("alternate_on", "cursor_flag") == ["0", "1"]
        shown.type("fg")
        shown.until(lambda screen: "q quits" in screen[-1])
        assert shown.state("alternate_on", "cursor_flag") == ["1", "0"]
        shown.press("q")
        shown.until(lambda screen: "work of the user" in screen)


def test_no_color_leaves_the_colours_out(system: System) -> None:
    with terminal(system.environment(NO_COLOR="1"), 80, 24) as shown:
        shown.type(f"{BIN}/flow board")
        shown.until(lambda screen: "q quits" in screen[-1])
        assert "\x1b[38" not in shown.escapes()


def test_colours_are_there_otherwise(system: System) -> None:
    with board(system, 80, 24) as shown:
        shown.until(lambda screen: "q quits" in screen[-1])
        assert "\x1b[38" in shown.escapes()


async def test_a_database_that_goes_away_is_told_and_comes_back(system: System) -> None:
    async with Proxy.to(system.database_url) as proxy:
        through = system.environment(FLOW_DATABASE_URL=proxy.through(system.database_url))
        with terminal(through, 80, 24) as shown:
            shown.type(f"{BIN}/flow board")
            await asyncio.to_thread(shown.until, lambda screen: "AGENTS 0" in "\n".join(screen))
            proxy.refuse()
            proxy.cut()
            away = await asyncio.to_thread(
                shown.until, lambda screen: screen[1].startswith("✗ database: away for ")
            )
            assert "expected an answer, got" in away[2]
            assert any(line.startswith("AGENTS 0") for line in away)
            await proxy.accept()
            await asyncio.to_thread(
                shown.until, lambda screen: "database: away" not in "\n".join(screen)
            )


async def test_a_board_waits_for_a_database_that_is_away_and_can_be_left(system: System) -> None:
    async with Proxy.to(system.database_url) as proxy:
        through = system.environment(FLOW_DATABASE_URL=proxy.through(system.database_url))
        proxy.refuse()
        with terminal(through, 80, 24) as shown:
            shown.type(f"{BIN}/flow board; echo ended $?")
            await asyncio.to_thread(
                shown.until, lambda screen: screen[1:2] == ["✗ database: away, trying again"]
            )
            await proxy.accept()
            await asyncio.to_thread(shown.until, lambda screen: "AGENTS 0" in "\n".join(screen))
            proxy.hold()
            shown.press("q")
            await asyncio.to_thread(shown.until, lambda screen: "ended 0" in screen, within=3)
            proxy.release()
