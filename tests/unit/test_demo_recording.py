"""The animated SVG of ``make demo-kill``: one that is made here, and the one of the README."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.text import Text

from tests.demo.recording import Recording
from tests.demo.verdict import Verdict

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "docs" / "demo-kill.svg"
SVG = "{http://www.w3.org/2000/svg}"
LAST_LINE = re.compile(r"lost 0, twice 0, recovered in (\d+\.\d) s")


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - of our own making


def lines(drawn: ET.Element, frame: ET.Element) -> list[str]:
    """What a frame shows, from top to bottom."""
    shared = {group.get("id"): group for group in drawn.iter(f"{SVG}g")}
    uses = sorted(frame.iter(f"{SVG}use"), key=lambda use: int(use.get("y", "")))
    found = [shared[use.get("href", "").removeprefix("#")] for use in uses]
    return ["|".join(str(text.text) for text in line.iter(f"{SVG}text")) for line in found]


def frames(drawn: ET.Element) -> list[ET.Element]:
    return [group for group in drawn.iter(f"{SVG}g") if "frame" in group.get("class", "")]


def recording() -> Recording:
    made = Recording(20, "make something")
    made.take(Text.assemble(("one ", "bold"), ("two", "#00ff00")), 1.0)
    made.take(Text.assemble(("one ", "bold"), ("two", "#00ff00")), 2.0)
    made.take(Text("one\n  <three> & four"), 3.0)
    return made


def test_frames_hold_their_lines_and_equal_ones_are_one() -> None:
    drawn = parsed(recording().svg("a & b"))
    assert [lines(drawn, frame) for frame in frames(drawn)] == [
        ["one|two"],
        ["one", "<three> & four"],
    ]
    assert drawn.findtext(f"{SVG}title") == "a & b"


def test_a_text_stands_in_its_cells_with_its_style() -> None:
    drawn = parsed(recording().svg("title"))
    texts = {text.text: text for text in drawn.iter(f"{SVG}text")}
    assert (texts["two"].get("x"), texts["two"].get("textLength")) == ("36", "27")
    assert (texts["<three> & four"].get("x"), texts["one"].get("x")) == ("18", "0")
    style = drawn.findtext(f"{SVG}style") or ""
    assert f"text.{texts['two'].get('class')}{{fill:#00ff00}}" in style


def test_the_frames_follow_each_other_and_the_last_one_stays_a_while() -> None:
    style = recording().svg("title")
    # The first for 2 of 8 seconds, the last for the other 6.
    assert ".frame{animation:8.00s step-end infinite}" in style
    assert "@keyframes m0{0.00%{visibility:visible}25.00%,100%{visibility:hidden}}" in style
    assert "@keyframes m1{0%{visibility:hidden}25.00%{visibility:visible}}" in style


def test_who_wants_no_motion_sees_the_last_frame() -> None:
    svg = recording().svg("title")
    still, _, moving = svg.partition("@media (prefers-reduced-motion:no-preference)")
    assert ".frame{visibility:hidden}.last{visibility:visible}" in still
    assert "animation" not in still
    assert "@keyframes" in moving
    drawn = parsed(svg)
    assert [frame.get("class") for frame in frames(drawn)] == ["frame", "frame last"]


@pytest.fixture
def recorded() -> str:
    return RECORDED.read_text(encoding="utf-8")


def test_the_readmes_recording_shows_a_run_in_which_the_promise_held(recorded: str) -> None:
    drawn = parsed(recorded)
    assert LAST_LINE.search(drawn.findtext(f"{SVG}title") or "")
    *_, last = frames(drawn)
    assert LAST_LINE.fullmatch(lines(drawn, last)[-1])
    shown = "\n".join("\n".join(lines(drawn, frame)) for frame in frames(drawn))
    for word in ("kill -9 node", "starts again", "running again"):
        assert word in shown


def test_the_readmes_recording_is_small_and_needs_nothing_from_elsewhere(recorded: str) -> None:
    assert len(recorded.encode()) < 250_000
    assert not [char for char in recorded if not char.isprintable() and char != "\n"]
    assert re.findall(r"https?:[^\"]*", recorded) == ["http://www.w3.org/2000/svg"]
    for foreign in ("<script", "<image", "@import", "@font-face", "url("):
        assert foreign not in recorded


def test_the_readme_shows_the_recording() -> None:
    assert f"(docs/{RECORDED.name})" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_pattern_is_that_of_the_demos_last_line() -> None:
    verdict = Verdict(3, ("a",), (), (), (), 2.14)
    assert LAST_LINE.fullmatch(verdict.line())
