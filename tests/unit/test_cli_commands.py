"""Every command over a database as a dispatcher leaves it: what it prints, and its exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dispatcher.core.records import AgentState
from dispatcher.logstore import LogStore
from dispatcher.store.reader import Reader
from flow import wire
from flow.cli import requests
from flow.cli.main import main
from flow.dagspec import Resources
from tests.database_world import DatabaseWorld, dag, serving, task

CHAIN = dag("chain", task("a", queue="q1"), task("b", "a", queue="q2"))
LATER = {"start_date": "2099-01-01T00:00:00+00:00", "timezone": "Europe/Berlin"}
OTHER = dag("other", task("x"), owner="ann", schedule="0 3 * * *", description="nightly", **LATER)


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Flow = Callable[..., Result]


@pytest.fixture
def flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Flow:
    monkeypatch.setenv("FLOW_HOME", str(tmp_path))
    monkeypatch.setenv("FLOW_CONFIG", "")
    # Nobody listens on port 1: the bell is never heard, and nothing but -v says so.
    monkeypatch.setenv("FLOW_BROKER_URL", "amqp://guest:guest@127.0.0.1:1/")
    monkeypatch.setattr(requests, "PATIENCE", 0.3)

    def call(*argv: str) -> Result:
        code = main(argv)
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/flow.db"


@pytest.fixture
def world(url: str) -> DatabaseWorld:
    return DatabaseWorld(url, CHAIN, OTHER)


def triggered(world: DatabaseWorld, run_id: str = "run1", dag_id: str = "chain") -> None:
    arguments = {"dag_id": dag_id, "run_id": run_id, "conf": {"k": 1}}
    Reader(world.database).request("trigger", arguments, actor="user t", at=datetime.now(UTC))
    world.serve_requests()


# -- db --------------------------------------------------------------------------------------------


def test_a_database_is_made_by_migrate_and_passes_check(flow: Flow) -> None:
    first = flow("db", "migrate")
    assert (first.code, first.out.splitlines()[0], first.err) == (0, "0001_initial", "")
    assert flow("db", "migrate") == (0, "", "flow: the database is up to date\n")
    assert flow("db", "check") == (0, "", "flow: the database is up to date\n")


def test_commands_on_a_database_without_schema_name_the_remedy(flow: Flow, tmp_path: Path) -> None:
    message = (
        f"flow: database {tmp_path}/flow.db: expected a file, got none; run `flow db migrate`\n"
    )
    for line in ("db check", "dags list", "runs list", "agents list", "dags trigger chain"):
        assert flow(*line.split()) == (5, "", message), line


def test_a_database_that_is_away_is_one_line_and_exit_code_5(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOW_DATABASE_URL", "postgresql://u:geheim@127.0.0.1:1/d")
    result = flow("dags", "list")
    assert (result.code, result.out, result.err.count("\n")) == (5, "", 1)
    assert result.err.startswith("flow: database u@127.0.0.1:1/d: expected an answer, got ")
    assert "geheim" not in result.err


# -- dags ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("world")
def test_dags_are_listed_with_the_agreed_keys(flow: Flow) -> None:
    result = flow("dags", "list", "--output", "json")
    assert result.json == [
        {
            "dag_id": "chain",
            "paused": False,
            "schedule": None,
            "next_run": None,
            "owner": "flow",
            "file": "chain.py",
        },
        {
            "dag_id": "other",
            "paused": False,
            "schedule": "0 3 * * *",
            "next_run": "2099-01-02T02:00:00.000000+00:00",
            "owner": "ann",
            "file": "other.py",
        },
    ]
    assert result.err == ""


@pytest.mark.usefixtures("world")
def test_the_next_runs_are_listed_in_utc_and_in_the_dags_zone(flow: Flow) -> None:
    first, second = flow("dags", "next", "other", "-n", "2", "--output", "json").json
    assert first == {
        "logical_date": "2099-01-01T02:00:00.000000+00:00",
        "data_interval_start": "2099-01-01T02:00:00.000000+00:00",
        "data_interval_end": "2099-01-02T02:00:00.000000+00:00",
        "due": "2099-01-02T02:00:00.000000+00:00",
        "logical_date_local": "2099-01-01T03:00:00.000000+01:00",
        "due_local": "2099-01-02T03:00:00.000000+01:00",
    }
    assert second["logical_date"] == first["due"]
    assert len(flow("dags", "next", "other").out.splitlines()) == 11
    none = flow("dags", "next", "chain")
    assert (none.code, none.err) == (0, "flow: dag chain has no schedule; it runs when triggered\n")


def test_a_paused_dag_has_no_next_run(flow: Flow, world: DatabaseWorld) -> None:
    Reader(world.database).request("pause", {"dag_id": "other"}, actor="u", at=datetime.now(UTC))
    world.serve_requests()
    assert flow("dags", "show", "other", "--output", "json").json["next_run"] is None
    assert flow("dags", "next", "other", "-n", "1").err == (
        "flow: warning: dag other is paused: it runs none of these before it is unpaused\n"
    )


def test_a_run_by_schedule_shows_what_it_is_about_and_what_holds_it_back(
    flow: Flow, world: DatabaseWorld
) -> None:
    noon = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
    about = {"schedule": "PT1H", "start_date": noon.isoformat(), "catchup": True}
    world.record(dag("hourly", task("t", depends_on_past=True), **about))
    world.take(world.core.tick(world.now()))
    names = [f"scheduled__{(noon + timedelta(hours=n)).isoformat()}" for n in (0, 1)]
    shown = flow("runs", "show", f"hourly/{names[1]}", "--output", "json").json
    assert shown["run_type"] == "scheduled"
    assert shown["logical_date"] == shown["data_interval_start"]
    assert [row["run_id"] for row in flow("runs", "list", "--output", "json").json] == names[::-1]
    [held] = flow("tasks", "list", f"hourly/{names[1]}", "--output", "json").json
    assert held["reason"] == f"depends_on_past: it is queued in {names[0]}"


@pytest.mark.usefixtures("world")
def test_a_dag_is_shown_with_its_tasks(flow: Flow) -> None:
    shown = flow("dags", "show", "chain", "--output", "json").json
    assert shown["dag_id"] == "chain"
    assert [(t["task_id"], t["queue"], t["upstream"]) for t in shown["tasks"]] == [
        ("a", "q1", []),
        ("b", "q2", ["a"]),
    ]
    table = flow("dags", "show", "chain").out
    assert re.search(r"^dag_id +chain$", table, re.MULTILINE)
    assert re.search(r"^b +bash +q2 +a +0 +flow$", table, re.MULTILINE)


def test_the_source_of_a_dag_is_printed_as_it_is(flow: Flow, world: DatabaseWorld) -> None:
    world.record(dag("third", task("t")), source="from flow import DAG\n# [bold]ü\n")
    assert flow("dags", "show", "third", "--source").out == "from flow import DAG\n# [bold]ü\n"


@pytest.mark.usefixtures("world")
def test_an_unknown_dag_is_answered_with_the_nearest(flow: Flow) -> None:
    message = "flow: dag 'chian': expected a known DAG; did you mean 'chain'?\n"
    for verb in ("show", "trigger", "pause", "unpause"):
        assert flow("dags", verb, "chian") == (6, "", message), verb
    assert flow("runs", "list", "chian") == (6, "", message)


@pytest.mark.usefixtures("world")
def test_a_name_that_is_no_text_is_unknown_too(flow: Flow) -> None:
    assert flow("dags", "show", "caf\udce9").code == 6
    assert flow("runs", "show", "a\0b").code == 6


def test_files_that_cannot_be_read_are_listed_and_counted(flow: Flow, world: DatabaseWorld) -> None:
    world.store.record_error(world.epoch, "bad.py", "bad.py:3: oh no", datetime.now(UTC))
    (row,) = flow("dags", "errors", "--output", "json").json
    assert (row["file"], row["message"]) == ("bad.py", "bad.py:3: oh no")
    warning = "flow: warning: 1 file cannot be read; see `flow dags errors`"
    assert warning in flow("dags", "list").err.splitlines()


# -- trigger, pause --------------------------------------------------------------------------------


def test_trigger_prints_the_run_id_alone(flow: Flow, url: str) -> None:
    with serving(url, CHAIN, agents={"node1": ("q1", "q2")}):
        result = flow("dags", "trigger", "chain", "--conf", '{"day": 1}')
        run_id = result.out.rstrip("\n")
        assert (result.code, result.err) == (0, "")
        assert re.fullmatch(
            r"manual__\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00__[0-9a-f]{4}", run_id
        )
        shown = flow("runs", "show", run_id, "--output", "json").json
    assert (shown["run_id"], shown["dag_id"], shown["conf"]) == (run_id, "chain", {"day": 1})


def test_trigger_with_wait_exits_0_when_the_run_succeeds(flow: Flow, url: str) -> None:
    with serving(url, CHAIN, agents={"node1": ("q1",), "node2": ("q2",)}):
        result = flow("dags", "trigger", "chain", "--wait")
    assert result.code == 0
    assert result.out.count("\n") == 1
    assert result.err.splitlines()[-1].endswith(": success")


def test_trigger_with_wait_exits_1_when_the_run_fails(flow: Flow, url: str) -> None:
    agents = {"node1": ("q1", "q2")}
    with serving(url, CHAIN, agents=agents, outcome=lambda *_: "failed"):
        result = flow("dags", "trigger", "chain", "--wait", "--output", "json")
    last = json.loads(result.out.splitlines()[-1])
    assert result.code == 1
    assert (last["dag_id"], last["state"]) == ("chain", "failed")
    assert last["run_id"].startswith("manual__")
    assert "flow: a: failed: exit code 1" in result.err.splitlines()


def test_trigger_names_queues_that_nobody_serves(flow: Flow, url: str) -> None:
    with serving(url, CHAIN, agents={"node1": ("q1",)}):
        result = flow("dags", "trigger", "chain")
    assert result.code == 0
    assert result.err == "flow: warning: queue q2: 0 agents; task b will wait for one\n"


def test_trigger_of_a_paused_dag_says_that_the_run_waits(flow: Flow, url: str) -> None:
    with serving(url, OTHER, agents={"node1": ("default",)}):
        assert flow("dags", "pause", "other") == (0, "", "flow: dag other is paused\n")
        result = flow("dags", "trigger", "other", "--output", "json")
        assert (result.code, result.json["state"]) == (0, "queued")
        assert result.err == (
            "flow: warning: dag other is paused: the run waits for `flow dags unpause`\n"
        )
        tasks = flow("tasks", "list", result.json["run_id"], "--output", "json").json
        assert tasks[0]["reason"] == "the DAG is paused"
        assert flow("dags", "unpause", "other") == (0, "", "flow: dag other is unpaused\n")


def test_without_a_dispatcher_requests_stay_and_it_is_said(
    flow: Flow, world: DatabaseWorld
) -> None:
    late = (
        "flow: warning: no dispatcher has dealt with the {} within 0.3 s; it stays requested "
        "until `flow dispatcher` runs"
    )
    result = flow("dags", "trigger", "other")
    run_id = result.out.strip()
    assert (result.code, result.err.splitlines()[-1]) == (0, late.format("trigger"))
    assert flow("runs", "show", run_id) == (
        6,
        "",
        (
            f"flow: run {run_id!r}: it was requested, but no dispatcher has created it yet; "
            "is `flow dispatcher` running?\n"
        ),
    )
    assert flow("dags", "pause", "other") == (0, "", late.format("pause") + "\n")
    world.serve_requests()
    assert flow("runs", "show", run_id).code == 0
    assert flow("dags", "list", "--output", "json").json[1]["paused"] is True


def test_a_request_that_the_dispatcher_refuses_exits_1_with_its_reason(
    flow: Flow, world: DatabaseWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The DAG goes after the command has looked and before the dispatcher does.
    def gone(_: object) -> None:
        world.core.dags_changed(world.store.retire_file(world.epoch, "other.py", datetime.now(UTC)))
        world.serve_requests()

    monkeypatch.setattr(requests, "wake", gone)
    result = flow("dags", "trigger", "other")
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines()[-1] == (
        "flow: dag 'other': expected an active DAG; see `flow dags list`"
    )


def test_a_dag_that_has_left_its_file_cannot_be_triggered(flow: Flow, world: DatabaseWorld) -> None:
    world.store.retire_file(world.epoch, "other.py", datetime.now(UTC))
    assert flow("dags", "trigger", "other") == (
        1,
        "",
        (
            "flow: dag 'other': expected an active DAG, but other.py no longer holds it; "
            "see `flow dags list` and `flow dags errors`\n"
        ),
    )


def test_a_bell_that_nobody_hears_is_told_with_v_only(flow: Flow, url: str) -> None:
    with serving(url, OTHER, agents={"node1": ("default",)}):
        assert flow("dags", "trigger", "other").err == ""
        err = flow("-v", "dags", "trigger", "other").err
    assert re.fullmatch(
        r"flow: warning: broker 127\.0\.0\.1:1: expected an answer, got '.*Connection refused.*'; "
        r"is it running\?; the dispatcher was not woken and will look by itself\n",
        err,
    )


# -- runs and tasks --------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_with_the_agreed_keys(
    flow: Flow, world: DatabaseWorld
) -> None:
    triggered(world, "run1")
    triggered(world, "run2", "other")
    rows = flow("runs", "list", "--output", "json").json
    assert [set(row) for row in rows] == [
        {"run_id", "dag_id", "state", "start_date", "end_date"}
    ] * 2
    assert [(row["run_id"], row["dag_id"], row["state"]) for row in rows] == [
        ("run2", "other", "running"),
        ("run1", "chain", "running"),
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", rows[0]["start_date"])
    assert rows[0]["end_date"] is None
    limited = flow("runs", "list", "--limit", "1")
    assert limited.out.splitlines()[1:] == [
        line for line in limited.out.splitlines() if "run2" in line
    ]
    assert limited.err == "flow: only the latest 1 runs are listed; --limit shows more\n"
    assert [row["run_id"] for row in flow("runs", "list", "chain", "--output", "json").json] == [
        "run1"
    ]


def test_a_run_id_of_two_dags_lists_the_candidates(flow: Flow, world: DatabaseWorld) -> None:
    triggered(world, "same")
    triggered(world, "same", "other")
    assert flow("runs", "show", "same") == (
        6,
        "",
        "flow: run 'same': expected one run, got 2; write one of chain/same, other/same\n",
    )
    assert flow("runs", "show", "other/same", "--output", "json").json["dag_id"] == "other"


def test_an_unknown_run_is_answered_with_the_nearest(flow: Flow, world: DatabaseWorld) -> None:
    triggered(world, "nightly")
    for text, remedy in (
        ("nigtly", "; did you mean 'nightly'?"),
        ("chain/nigtly", "; did you mean 'chain/nightly'?"),
        ("zzz", "; see `flow runs list`"),
        ("chain/zzz", "; see `flow runs list chain`"),
        ("chain", ", got the name of a DAG; its latest run is chain/nightly"),
    ):
        expected = (6, "", f"flow: run {text!r}: expected a known run{remedy}\n")
        assert flow("tasks", "list", text) == expected
    assert flow("runs", "show", "chian/nightly").err == (
        "flow: dag 'chian': expected a known DAG; did you mean 'chain'?\n"
    )


def test_tasks_are_listed_with_the_agreed_keys_and_reasons(
    flow: Flow, world: DatabaseWorld
) -> None:
    world.hello("node1", "q1")
    triggered(world)
    world.finish("node1", world.start("node1"))
    first, second = flow("tasks", "list", "chain/run1", "--output", "json").json
    assert list(first) == [
        *("task_id", "map_index", "state", "try_number", "queue", "agent"),
        *("start_date", "end_date", "reason"),
    ]
    assert (first["state"], first["agent"], first["try_number"]) == ("success", "node1", 1)
    assert first["start_date"] <= first["end_date"]
    assert (second["state"], second["queue"], second["agent"], second["map_index"]) == (
        "queued",
        "q2",
        None,
        -1,
    )
    assert second["reason"] == "queue q2: 0 agents"
    table = flow("tasks", "list", "run1").out
    assert "queue q2: 0 agents" in table.splitlines()[2]


def test_a_task_is_shown_with_what_its_tries_used(flow: Flow, world: DatabaseWorld) -> None:
    world.record(dag("again", task("t", retries=1, retry_delay=0.0)))
    triggered(world, dag_id="again")
    world.hello("node1", "default")
    world.finish("node1", world.start("node1"), "failed", memory_peak=1536 << 20, cpu_seconds=2.5)
    world.take(world.core.tick(world.now()))
    world.finish("node1", world.start("node1"))
    shown = flow("tasks", "show", "run1", "t", "--output", "json").json
    assert (shown["run"], shown["task_id"], shown["state"]) == ("again/run1", "t", "success")
    first, second = shown["tries"]
    assert list(first) == [
        *("try_number", "agent", "opened_at", "closed_at", "outcome", "exit_code"),
        *("memory_peak", "cpu_seconds", "reason"),
    ]
    assert (first["memory_peak"], first["cpu_seconds"]) == (1536 << 20, 2.5)
    assert (first["outcome"], first["exit_code"], first["reason"]) == ("failed", 1, "exit code 1")
    assert (second["memory_peak"], second["cpu_seconds"]) == (None, None)
    table = flow("tasks", "show", "run1", "t").out
    assert re.search(r"^state +success$", table, re.MULTILINE)
    assert re.search(r"^1 +node1 .* failed +1 +1\.5G +2\.5 +exit code 1$", table, re.MULTILINE)


def test_a_task_below_another_names_it(flow: Flow, world: DatabaseWorld) -> None:
    world.hello("node1", "q1")
    triggered(world)
    rows = flow("tasks", "list", "run1", "--output", "json").json
    assert rows[1]["reason"] == "waits for upstream a"


# -- logs ------------------------------------------------------------------------------------------


def test_the_log_of_a_task_that_has_not_started_says_why(flow: Flow, world: DatabaseWorld) -> None:
    triggered(world)
    assert flow("tasks", "logs", "run1", "a") == (
        0,
        "",
        "flow: a: queued, not started: queue q1: 0 agents\n",
    )


def test_an_unknown_task_is_answered_with_the_nearest(flow: Flow, world: DatabaseWorld) -> None:
    triggered(world)
    world.record(dag("long", task("extract"), task("load")))
    triggered(world, "run2", "long")
    assert flow("tasks", "logs", "run2", "extrat") == (
        6,
        "",
        "flow: task 'extrat': expected a task of run long/run2; did you mean 'extract'?\n",
    )


def test_the_stored_output_is_printed_byte_by_byte(
    flow: Flow, world: DatabaseWorld, tmp_path: Path
) -> None:
    world.hello("node1", "q1")
    triggered(world)
    grant = world.start("node1")
    run_pk = world.core.state.tasks[grant.task_instance_id].run_pk
    LogStore(tmp_path / "logs").write(
        run_pk, grant.task_instance_id, 1, 0, "grün\x1b[0m\n".encode()
    )
    assert flow("tasks", "logs", "run1", "a") == (0, "grün\x1b[0m\n", "")
    assert flow("tasks", "logs", "run1", "a", "--try", "1").out == "grün\x1b[0m\n"
    assert flow("tasks", "logs", "run1", "a", "--try", "4") == (
        6,
        "",
        "flow: task 'a' of run chain/run1: expected one of its tries (1), got 4\n",
    )


def test_a_log_that_is_not_stored_is_told_with_the_folder(
    flow: Flow, world: DatabaseWorld, tmp_path: Path
) -> None:
    world.hello("node1", "q1")
    triggered(world)
    world.start("node1")
    assert flow("tasks", "logs", "run1", "a") == (
        0,
        "",
        f"flow: a: no output of try 1 is stored in {tmp_path}/logs\n",
    )


# -- queues and agents -----------------------------------------------------------------------------


def test_queues_of_dags_and_agents_are_listed_and_unserved_ones_named(
    flow: Flow, world: DatabaseWorld
) -> None:
    world.hello("node1", "q1", "spare")
    triggered(world)
    world.start("node1")
    result = flow("queues", "list", "--output", "json")
    assert result.json == [
        {"name": "default", "waiting": 0, "running": 0, "agents": 0},
        {"name": "q1", "waiting": 0, "running": 1, "agents": 1},
        {"name": "q2", "waiting": 0, "running": 0, "agents": 0},
        {"name": "spare", "waiting": 0, "running": 0, "agents": 1},
    ]
    assert result.err == (
        "flow: warning: queue default: 0 agents\nflow: warning: queue q2: 0 agents\n"
    )


def test_agents_are_listed_with_the_agreed_keys(flow: Flow, world: DatabaseWorld) -> None:
    world.hello("node1", "q1", "q2", slots=3)
    world.hello("node0")
    world.set_state("node0", AgentState.DEAD)
    triggered(world)
    world.start("node1")
    gone, busy = flow("agents", "list", "--output", "json").json
    assert list(gone) == ["name", "queues", "slots", "busy", "state", "last_heartbeat"]
    assert (gone["name"], gone["queues"], gone["state"]) == ("node0", ["default"], "dead")
    assert (busy["name"], busy["slots"], busy["busy"], busy["state"]) == ("node1", 3, 1, "online")
    assert re.search(r"^node1 +q1, q2 +3 +1 +online", flow("agents", "list").out, re.MULTILINE)


def test_an_agent_that_takes_no_tasks_is_listed_as_suspended_with_the_reason(
    flow: Flow, world: DatabaseWorld
) -> None:
    world.hello("node1")
    world.send(
        wire.Heartbeat(agent="node1", session=1, lease=60.0, suspended="No space left on device")
    )
    listed = flow("agents", "list", "--output", "json")
    assert [row["state"] for row in listed.json] == ["suspended"]
    assert listed.err == "flow: warning: agent node1 is suspended: No space left on device\n"
    world.set_state("node1", AgentState.DEAD)
    listed = flow("agents", "list", "--output", "json")
    assert ([row["state"] for row in listed.json], listed.err) == (["dead"], "")


def test_an_agent_that_is_heard_cannot_be_declared_dead(flow: Flow, url: str) -> None:
    with serving(url, CHAIN, agents={"node1": ("q1",)}):
        result = flow("agents", "declare-dead", "node1")
        unknown = flow("agents", "declare-dead", "node2")
    assert (result.code, unknown.code) == (1, 1)
    assert "agent 'node1': expected one that is silent, got one that was heard" in result.err
    assert "agent 'node2': expected one ever seen; did you mean 'node1'?" in unknown.err


def test_an_agent_is_shown_with_its_node_and_what_it_runs(flow: Flow, world: DatabaseWorld) -> None:
    heavy = task("train", queue="gpu", resources=Resources(slots=2, gpus=1))
    world.record(dag("fit", heavy))
    world.hello(
        "node1",
        "gpu",
        cores=16,
        memory=64 * 2**30,
        gpus=("GPU-a: NVIDIA A100", "GPU-b: NVIDIA A100"),
        limits=True,
        software="flow-dispatch 0.9",
    )
    triggered(world, dag_id="fit")
    world.start("node1")
    shown = flow("agents", "show", "node1", "--output", "json").json
    (running,) = shown.pop("tasks")
    times = {name: shown.pop(name) for name in ("since", "last_heartbeat")}
    assert all(times.values())
    assert shown == {
        "name": "node1",
        "state": "online",
        "suspended": "",
        "drained": "",
        "session": 1,
        "software": "flow-dispatch 0.9",
        "queues": ["gpu"],
        "wanted_queues": None,
        "slots": 4,
        "wanted_slots": None,
        "busy": 2,
        "cores": 16,
        "memory": 64 * 2**30,
        "gpus": ["GPU-a: NVIDIA A100", "GPU-b: NVIDIA A100"],
        "gpu_share": 1,
        "gpus_busy": 1,
        "limits": True,
    }
    assert running.pop("since")
    assert running == {
        "run": "fit/run1",
        "task_id": "train",
        "map_index": -1,
        "try_number": 1,
        "slots": 2,
        "gpus": 1,
    }
    text = flow("agents", "show", "node1").out
    assert re.search(r"^slots +2 of 4 busy$", text, re.MULTILINE)
    assert re.search(r"^memory +64G$", text, re.MULTILINE)
    assert "GPU-a: NVIDIA A100, GPU-b: NVIDIA A100 (1 of 2 busy)" in text
    assert re.search(r"^fit/run1 +train +-1 +1 +2 +1 ", text, re.MULTILINE)
    assert "suspended" not in text


def test_an_agent_that_nobody_has_seen_is_answered_with_the_nearest_name(
    flow: Flow, world: DatabaseWorld
) -> None:
    world.hello("node1")
    assert flow("agents", "show", "nod1") == (
        6,
        "",
        "flow: agent 'nod1': expected one ever seen; did you mean 'node1'?\n",
    )


def test_a_trigger_warns_of_tasks_that_no_agent_of_their_queue_could_hold(
    flow: Flow, world: DatabaseWorld
) -> None:
    world.record(dag("fit", task("big", queue="gpu", resources=Resources(slots=8))))
    world.hello("node1", "gpu", slots=4)
    result = flow("dags", "trigger", "fit")
    assert (
        "flow: warning: queue gpu: needs 8 slots, the largest agent has 4; "
        "task big will wait for one\n" in result.err
    )
