"""How checks are carried out and told: side by side, each chain until one cannot look."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flow.cli.checks.finding import (
    Check,
    Finding,
    Judgement,
    Level,
    carry_out,
    note,
    ok,
    problem,
    warning,
)
from flow.cli.main import main
from flow.errors import ConfigError, StoreError


def lines(*chains: list[Check], within: float = 20.0) -> list[str]:
    return [finding.line for finding in carry_out(chains, within)]


def finds(*judgements: Judgement) -> Check:
    return Check("it", lambda: judgements)


def raises(error: Exception, name: str = "it", remedy: str = "") -> Check:
    def look() -> Iterator[Judgement]:
        yield ok("so far")
        raise error

    return Check(name, look, remedy)


def test_each_finding_is_a_line_with_its_level_first() -> None:
    found = finds(ok("good"), note("known"), warning("odd", "look"), problem("bad", "mend it"))
    assert lines([found]) == [
        "ok       it: good",
        "note     it: known",
        "warning  it: odd; look",
        "problem  it: bad; mend it",
    ]


def test_an_error_is_a_problem_with_its_own_remedy_and_stops_its_chain_only() -> None:
    broken = [raises(StoreError("db: expected a, got b; run c"), "database"), finds(ok("x"))]
    assert lines(broken, [finds(ok("other"))]) == [
        "ok       database: so far",
        "problem  database: db: expected a, got b; run c",
        "note     it: not looked at, because of database",
        "ok       it: other",
    ]


def test_an_error_without_a_remedy_gets_that_of_its_check() -> None:
    assert lines([raises(StoreError("db: away"), remedy="start it")])[1] == (
        "problem  it: db: away; start it"
    )


def test_several_wrong_settings_are_a_line_each() -> None:
    assert lines([raises(ConfigError("a: wrong; b\nc: wrong"), remedy="mend")])[1:] == [
        "problem  it: a: wrong; b",
        "problem  it: c: wrong; mend",
    ]


def test_what_may_not_be_read_names_who_may() -> None:
    error = PermissionError(13, "Permission denied", "/etc/x")
    assert lines([raises(error)])[1] == (
        "problem  it: /etc/x may not be read or used by this user; "
        "run flow doctor as root or as the unit's user"
    )


def test_what_the_system_refuses_is_told_in_its_words() -> None:
    assert lines([raises(OSError(5, "Input/output error", "/srv"), remedy="look")])[1] == (
        "problem  it: Input/output error: /srv; look"
    )


def test_a_bug_in_one_check_is_told_and_stops_no_other() -> None:
    assert lines([raises(ZeroDivisionError("oh\nno"))], [finds(ok("fine"))])[1:] == [
        (
            "problem  it: a bug in flow kept it from looking: ZeroDivisionError: oh no; "
            "please report it"
        ),
        "ok       it: fine",
    ]


def test_a_check_that_hangs_is_a_problem_and_holds_nobody_up() -> None:
    never = threading.Event()

    def hangs() -> Iterator[Judgement]:
        yield ok("so far")
        never.wait()

    chain = [Check("disk", hangs), finds(ok("x"))]
    try:
        assert lines(chain, [finds(ok("other"))], within=0.2) == [
            "ok       disk: so far",
            (
                "problem  disk: no answer within 0.2 s; what it asks hangs: a server, a file "
                "system, or this machine is overloaded"
            ),
            "note     it: not looked at, because of disk",
            "ok       it: other",
        ]
    finally:
        never.set()


def test_checks_go_on_side_by_side() -> None:
    both = threading.Barrier(2, timeout=20)

    def meets() -> list[Judgement]:
        both.wait()
        return [ok("met")]

    assert lines([Check("a", meets)], [Check("b", meets)]) == ["ok       a: met", "ok       b: met"]


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOW_HOME", str(tmp_path))
    monkeypatch.setenv("FLOW_CONFIG", "")
    return tmp_path


@pytest.mark.parametrize(
    ("level", "code", "summary"),
    [
        (Level.OK, 0, "flow: doctor: no problems, no warnings\n"),
        (Level.NOTE, 0, "flow: doctor: no problems, no warnings\n"),
        (Level.WARNING, 0, "flow: doctor: no problems, 1 warning\n"),
        (Level.PROBLEM, 1, "flow: doctor: 1 problem, no warnings\n"),
    ],
)
@pytest.mark.usefixtures("home")
def test_the_exit_code_is_1_when_there_is_a_problem(
    level: Level,
    code: int,
    summary: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = [Finding("it", level, "what", "do")]
    monkeypatch.setattr("flow.cli.checks.finding.carry_out", lambda *_: iter(found))
    assert main(["doctor"]) == code
    assert capsys.readouterr() == (f"{level:<8} it: what; do\n", summary)


@pytest.mark.usefixtures("home")
def test_json_has_every_finding_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Finding("it", Level.WARNING, "what", "do")]
    monkeypatch.setattr("flow.cli.checks.finding.carry_out", lambda *_: iter(found))
    main(["doctor", "--output", "json"])
    text = '"check": "it",\n    "level": "warning",\n    "what": "what",\n    "remedy": "do"'
    assert text in capsys.readouterr().out


def test_a_dispatcher_and_an_agent_are_not_checked_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--dispatcher", "--agent"]) == 2
    assert capsys.readouterr().err == (
        "flow: doctor: expected --dispatcher or an agent, got both; run it twice\n"
    )


def test_wrong_settings_are_a_problem_and_the_rest_goes_on(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLOW_AGENT_SLOTS", "x")
    assert main(["doctor", "--agent"]) == 1
    clock, settings = capsys.readouterr().out.splitlines()
    assert "clock: " in clock
    assert settings == (
        "problem  settings: FLOW_AGENT_SLOTS: expected a whole number from 1 to 10000, got 'x'; "
        "correct it, see docs/configuration.md"
    )
    assert list(home.iterdir()) == []


def test_on_a_fresh_machine_it_says_what_to_do_and_makes_nothing(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--dispatcher"]) == 1
    found = capsys.readouterr().out.splitlines()
    assert f"warning  dags: {home}/dags is not there; make it, or set dags.folder" in found
    assert (
        f"problem  schema: database {home}/flow.db: expected a file, got none; "
        "run `flow db migrate`"
    ) in found
    assert f"note     disk: {home}/logs is not there yet: flow makes it" in found
    assert not any("broker" in line for line in found), "flow standalone needs none"
    assert list(home.iterdir()) == []
