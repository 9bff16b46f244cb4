"""Frames of the board: what they say, and that they never leave their size."""

from __future__ import annotations

import io
import itertools
import unicodedata
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from dispatcher.board.bars import shares, slot_bar, span, task_bar
from dispatcher.board.columns import crop
from dispatcher.board.palette import AGENT_LOOKS, ASCII, RED, RUN_LOOKS, TASK_LOOKS
from dispatcher.board.render import divide, render
from dispatcher.board.terminal import printed
from dispatcher.core.records import AgentState
from dispatcher.store.views import BoardView, LeaderView
from flow.states import RunState, TaskState
from tests.unit.board_views import NOW, agent, ago, failure, full_view, queue, run, views


def frame(view: BoardView | None, width: int = 80, height: int = 24, **more: str) -> list[str]:
    """The lines of a frame, without colours."""
    rendered = render(view, width, height, NOW, **more)
    lines = [line.plain for line in rendered.renderables if isinstance(line, Text)]
    console = Console(file=io.StringIO(), width=width, color_system=None, record=True)
    console.print(rendered)
    assert console.export_text(styles=False).splitlines() == lines, "it was wrapped"
    return lines


def line_of(lines: list[str], start: str) -> str:
    (found,) = [line for line in lines if line.startswith(start)]
    return found


def styles_of(view: BoardView, text: str) -> set[str]:
    """The styles in which *text* stands on the board."""
    lines: list[Text] = list(render(view, 100, 60, NOW).renderables)  # type: ignore[arg-type]
    return {
        str(span.style)
        for line in lines
        for span in line.spans
        if text in line.plain[span.start : span.end]
    }


# -- what states look like -------------------------------------------------------------------------


def test_every_state_has_a_glyph_and_a_colour() -> None:
    assert set(TASK_LOOKS) == set(TaskState)
    assert set(RUN_LOOKS) == set(RunState)
    assert set(AGENT_LOOKS) == set(AgentState)
    assert all(look.style for looks in (TASK_LOOKS, AGENT_LOOKS) for look in looks.values())


@pytest.mark.parametrize("looks", [TASK_LOOKS, AGENT_LOOKS])
def test_no_two_states_share_a_glyph_even_in_ascii(looks: dict[TaskState, object]) -> None:
    glyphs = [look.glyph for look in looks.values()]  # type: ignore[attr-defined]
    assert len(set(glyphs)) == len(glyphs)
    plain = [glyph.translate(ASCII) for glyph in glyphs]
    assert len(set(plain)) == len(plain)
    assert "".join(plain).isascii()
    assert all(cell_len(glyph) == 1 for glyph in glyphs)
    assert all(unicodedata.east_asian_width(glyph) != "W" for glyph in glyphs)


# -- bars and times --------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**9), max_size=12), st.integers(0, 60))
def test_shares_fill_the_bar_in_proportion_and_leave_nothing_out(
    counts: list[int], width: int
) -> None:
    cells = shares(counts, width)
    present = sum(count > 0 for count in counts)
    assert sum(cells) == (width if present else 0)
    if width >= present:
        assert [cell > 0 for cell in cells] == [width > 0 < count for count in counts]
    ordered = sorted(zip(counts, cells, strict=True))
    assert all(
        fewer <= more or small == large
        for (small, fewer), (large, more) in itertools.pairwise(ordered)
    )


def test_a_bar_shows_what_has_ended_first_and_a_single_failure_always() -> None:
    counts = {TaskState.NONE: 400, TaskState.SUCCESS: 599, TaskState.FAILED: 1}
    assert task_bar(counts, 10).plain == "█████✗····"
    assert task_bar({TaskState.SUCCESS: 3}, 10).plain == "█" * 10
    assert task_bar({}, 10).plain == ""


def test_slots_are_cells_where_they_fit_and_shares_elsewhere() -> None:
    assert slot_bar(1, 4, 8).plain == "■□□□"
    assert slot_bar(64, 128, 8).plain == "■■■■□□□□"
    assert slot_bar(1, 128, 8).plain == "■□□□□□□□"
    assert slot_bar(9, 4, 8).plain == "■■■■"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((-5, "0 s"), (8.9, "8 s"), (185, "3 m 05 s")),
        *((7_650, "2 h 07 m"), (385_200, "4 d 11 h")),
    ],
)
def test_a_span_has_two_units_at_most(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_what_is_cropped_ends_with_an_ellipsis_or_keeps_its_tail() -> None:
    assert crop(Text("abcdefgh"), 5).plain == "abcd…"
    assert crop(Text("abcdefgh"), 6, tail=2).plain == "abc…gh"
    assert crop(Text("abcdefgh"), 2, tail=2).plain == "a…"
    assert crop(Text("日本語"), 4).plain == "日 …"
    assert crop(Text("abc"), 0).plain == ""


# -- the size --------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(
    st.none() | views(),
    st.integers(1, 220),
    st.integers(1, 70),
    st.sampled_from(["", "database x: expected an answer, got 'no\n\x1b[31m'"]),
)
def test_no_line_is_wider_and_no_frame_higher_than_the_terminal(
    view: BoardView | None, width: int, height: int, trouble: str
) -> None:
    lines = frame(view, width, height, trouble=trouble, hint="q quits")
    assert len(lines) <= height
    assert [line for line in lines if cell_len(line) > width] == []
    assert not any(unicodedata.category(character) == "Cc" for line in lines for character in line)


@pytest.mark.parametrize(("width", "height"), [(60, 15), (80, 24), (100, 40), (160, 50), (200, 60)])
def test_every_section_is_there_at_every_size(width: int, height: int) -> None:
    text = "\n".join(frame(full_view(), width, height))
    for title in ("AGENTS 5", "QUEUES 5", "RUNS 3 active", "FAILURES", "DAG ERRORS 1"):
        assert title in text


def test_wide_terminals_have_agents_and_queues_side_by_side() -> None:
    assert "QUEUES 5" in line_of(frame(full_view(), 160, 50), "AGENTS 5")


def test_rows_beyond_the_height_are_summed_up() -> None:
    agents = tuple(agent(f"node{n:02}", "q", state=AgentState.ONLINE) for n in range(30))
    dead = agent("dead", "q", state=AgentState.DEAD)
    lines = frame(BoardView(at=NOW, agents=(*agents, dead)), 80, 20)
    assert lines[lines.index(line_of(lines, "AGENTS 31")) + 1].startswith("dead ")
    shown = sum(line.startswith("node") for line in lines)
    assert f"+{30 - shown} more: {30 - shown} online" in lines


def test_runs_that_were_not_read_count_as_more() -> None:
    view = BoardView(at=NOW, active_runs=40, runs=(run(1, RunState.RUNNING, running=1),))
    assert "+39 more: 39 active" in frame(view)


@given(st.lists(st.integers(0, 30), max_size=5), st.integers(-5, 80))
def test_lines_are_divided_fairly_and_none_is_wasted(wanted: list[int], lines: int) -> None:
    grants = divide(wanted, lines)
    assert sum(grants) == min(sum(wanted), max(0, lines))
    short = [grant for grant, want in zip(grants, wanted, strict=True) if grant < want]
    assert all(grant <= min(short, default=99) + 1 for grant in grants)


# -- what it says ----------------------------------------------------------------------------------


def test_an_agent_shows_its_slots_state_and_last_heartbeat() -> None:
    lines = frame(full_view())
    assert line_of(lines, "cpu-1").split() == [
        *("cpu-1", "■■■■■■□□", "11/16", "●", "online", "3", "s", "cpu,", "default")
    ]
    assert "◐ lost            19 s" in line_of(lines, "cpu-2")
    assert "✗ dead        2 m 10 s" in line_of(lines, "tape")


def test_a_suspended_agent_comes_first_and_says_why() -> None:
    full = "No space left on device: /var/lib/flow/agents/b/spool/11.json"
    agents = (agent("a", "q1"), agent("b", "q2", suspended=full))
    silent = agent("c", "q3", suspended=full, state=AgentState.LOST)
    view = BoardView(at=NOW, agents=(*agents, silent), queues=())
    lines = frame(view)
    assert "! suspended        3 s  No space left on devic…" in line_of(lines, "b ")
    assert "◐ lost" in line_of(lines, "c ")
    assert lines.index(line_of(lines, "b ")) < lines.index(line_of(lines, "a "))


def test_a_drained_agent_says_why() -> None:
    agents = (agent("a", "q1"), agent("b", "q2", drained="new kernel (user ada)"))
    lines = frame(BoardView(at=NOW, agents=agents, queues=()))
    assert "! drained          3 s  new kernel (user ada)" in line_of(lines, "b ")
    assert lines.index(line_of(lines, "b ")) < lines.index(line_of(lines, "a "))


def test_an_unserved_queue_is_red_and_says_so_in_words() -> None:
    assert line_of(frame(full_view()), "gpuu").split() == ["gpuu", "1", "0", "0", "✗", "unserved"]
    assert styles_of(full_view(), "unserved") == {RED}
    assert styles_of(full_view(), "gpuu") == {RED}


def test_a_queue_whose_agents_are_all_lost_says_so() -> None:
    view = BoardView(
        at=NOW,
        agents=(agent("a", "q1", "q2", state=AgentState.LOST), agent("b", "q2")),
        queues=(queue("q1"), queue("q2", agents=2)),
    )
    lines = frame(view)
    assert line_of(lines, "q1").endswith("◐ lost")
    assert line_of(lines, "q2").split() == ["q2", "0", "0", "2"]


def test_unserved_queues_with_waiting_tasks_come_first() -> None:
    lines = frame(full_view())
    start = lines.index(line_of(lines, "QUEUES 5")) + 1
    assert [line.split()[0] for line in lines[start : start + 3]] == ["gpuu", "archive", "cpu"]


def test_a_run_shows_its_bar_its_count_and_its_time() -> None:
    row = line_of(frame(full_view(), 100, 40), "train           running")
    assert "██████████✗▓▓▓▓▓▒▒······      10/21   1 m 40 s" in row
    assert row.endswith("__0009")


def test_the_legend_explains_the_glyphs_that_are_there() -> None:
    view = BoardView(at=NOW, runs=(run(1, RunState.SUCCESS, success=2, failed=1),))
    assert frame(view, hint="q quits")[-1].split() == [
        *("█", "success", "✗", "failed", "q", "quits")
    ]


def test_a_failure_shows_its_reason_on_one_line() -> None:
    view = BoardView(at=NOW, failures=(failure("load", "line 1\nline 2\x1b[31m"),))
    assert line_of(frame(view), "✗ train.load").endswith("line 1\\nline 2\\x1b[31m")


def test_a_file_with_an_error_is_named_once() -> None:
    row = line_of(frame(full_view()), "broken.py")
    assert row.count("broken.py") == 1
    assert row.endswith("12: dag 'x': expected a task, got None; return it")


def test_an_empty_board_says_how_to_begin() -> None:
    lines = frame(BoardView(at=NOW), 100)
    assert "dispatcher: none has led yet; start one: flow dispatcher" in lines[0]
    assert "none seen yet; start one: flow-agent --queue QUEUE" in lines
    assert "none yet; start one: flow dags trigger DAG" in lines


@pytest.mark.parametrize(
    ("heard", "says"),
    [
        (10.0, "flow  ● dispatcher d1, epoch 7 "),
        (12.0, "flow  ✗ dispatcher: not heard for 12 s  d1, epoch 7 "),
    ],
)
def test_a_dispatcher_that_was_not_heard_lately_is_told(heard: float, says: str) -> None:
    leader = LeaderView(dispatcher="d1", epoch=7, heard_at=ago(heard))
    assert frame(BoardView(at=NOW, leader=leader))[0].startswith(says)


def test_a_database_that_is_away_is_told_and_all_ages_stand_still() -> None:
    view = replace(full_view(), at=ago(30))
    trouble = "database flow@db/flow: expected an answer, got 'refused'; is it running?"
    lines = frame(view, trouble=trouble)
    assert lines[1:3] == [
        "✗ database: away for 30 s, trying again; this is its state of 12:34:26",
        trouble,
    ]
    # Nothing is known of the last 30 s, so nobody is said to have been silent for them.
    assert lines[0].startswith("flow  ● dispatcher control-1-4711, epoch 4 ")
    assert "● online           0 s" in line_of(lines, "cpu-1")


def test_before_anything_was_read_nothing_is_claimed() -> None:
    assert frame(None)[0].startswith("flow  reading the database ")
    lines = frame(None, trouble="database: no")
    assert lines[0].startswith("flow  nothing is known yet ")
    assert lines[1:] == ["✗ database: away, trying again", "database: no"]


# -- on its way out --------------------------------------------------------------------------------


class Screen(io.TextIOWrapper):
    """A terminal, as far as is asked."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colours_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = Screen(io.BytesIO(), encoding="utf-8")
    text = render(full_view(), 80, 24, NOW)
    assert "\x1b[38;5;" in printed(screen, text, 80)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[38;5;" not in printed(screen, text, 80)
    assert "✗ unserved" in printed(screen, text, 80)


def test_a_pipe_gets_no_escapes_and_ascii_where_it_has_nothing_else() -> None:
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    text = printed(pipe, render(full_view(), 80, 24, NOW), 80)
    assert text.isascii()
    assert "\x1b" not in text
    assert "x unserved" in text
    assert "#######x>>>=...." in text


def test_ages_follow_the_clock_that_is_given() -> None:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(render(full_view(), 80, 24, NOW + timedelta(seconds=5)))
    assert "● online           8 s" in console.file.getvalue()  # type: ignore[attr-defined]
