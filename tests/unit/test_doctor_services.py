"""What `flow doctor` says of broker, database and node, by what they were seen to be."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.cache import CodeCache
from agent.cacheaudit import audit
from dispatcher.store.health import Health
from dispatcher.store.views import LeaderView
from flow.bundle import Manifest, ShippedFile
from flow.cli.checks import broker, database, node, queues, rights
from flow.cli.checks.attempts import Answer
from flow.cli.checks.finding import Judgement, note, ok, problem, warning
from flow.cli.checks.subjects import Subject
from flow.cli.checks.units import Unit
from flow.config import AGENT_SECTIONS, load_config
from flow.transport.amqp.greeting import Greeting

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


# -- broker ----------------------------------------------------------------------------------------


def judged(version: str, product: str = "RabbitMQ") -> list[Judgement]:
    return list(broker.judge_version(Greeting(product, version, 10, None)))


def test_the_release_that_is_tested_needs_no_word() -> None:
    assert judged("3.10.8") == []


def test_an_old_release_is_a_problem() -> None:
    assert judged("3.9.13") == [
        problem("RabbitMQ 3.9.13 is older than flow supports", "upgrade it to 3.10 or later")
    ]


def test_a_newer_release_is_told_as_untested_and_what_it_needs() -> None:
    untested = note("flow's tests run with RabbitMQ 3.10, not with 3.13")
    assert judged("3.13.7") == [untested]
    assert judged("4.1.0-rc.1")[1:] == [
        note(
            "RabbitMQ 4 drops a message that came back 20 times, unless a policy sets "
            "delivery-limit to -1 for flow's queues; whether one does is not known from here",
            "rabbitmqctl list_policies shows it; `flow broker rights USER --dispatcher "
            "--rabbitmq 4.1` prints the one to set",
        )
    ]


@pytest.mark.parametrize(("product", "version"), [("LavinMQ", "2.0.0"), ("RabbitMQ", "mine")])
def test_another_broker_is_told(product: str, version: str) -> None:
    assert judged(version, product) == [
        warning(
            f"{product} {version} is none that flow was tried with", "use RabbitMQ 3.10 or later"
        )
    ]


def test_a_heartbeat_is_judged_by_what_was_asked_for() -> None:
    assert list(broker.judge_heartbeat(10, 10)) == []
    assert list(broker.judge_heartbeat(5, 10)) == [
        note("a heartbeat of 5 s was agreed on, where 10 s were asked for")
    ]
    assert list(broker.judge_heartbeat(0, 10)) == [
        problem(
            "the broker has switched heartbeats off: a lost connection is noticed after minutes",
            "remove `heartbeat = 0` from rabbitmq.conf",
        )
    ]


def test_a_short_consumer_timeout_is_told() -> None:
    assert broker.judge_consumer_timeout("{ok,1800000}\n") == warning(
        "while a task runs longer than 30 minutes, RabbitMQ makes its agent connect anew again "
        "and again; no task is lost or repeated by it",
        "set consumer_timeout in rabbitmq.conf, or from RabbitMQ 3.12 on by the policy that `flow "
        "broker rights USER --dispatcher` prints",
    )
    assert broker.judge_consumer_timeout("{ok,31536000000}\n") == ok(
        "365 days, for RabbitMQ as a whole"
    )
    assert broker.judge_consumer_timeout("undefined\n") == ok("RabbitMQ has none")


# -- rights ----------------------------------------------------------------------------------------

GRANT = "flow broker rights n1 --queue gpu"


def test_a_right_that_is_needed_and_refused_is_a_problem() -> None:
    answers = {"read queue 'gpu'": Answer.REFUSED, "send output": Answer.ALLOWED}
    assert list(rights.judge_needed("agent n1", answers, GRANT)) == [
        problem("the user of agent n1 may not read queue 'gpu'", f"grant it what `{GRANT}` prints")
    ]


def test_what_no_dispatcher_has_made_yet_is_told() -> None:
    answers = {"read queue 'gpu'": Answer.MISSING}
    assert list(rights.judge_needed("agent n1", answers, GRANT)) == [
        note(
            "not there yet, for the user of agent n1 to read queue 'gpu': a dispatcher makes "
            "queues and exchanges when it leads",
            "start one",
        )
    ]


def test_all_that_is_needed_is_good() -> None:
    assert list(rights.judge_needed("agent n1", {"x": Answer.ALLOWED}, GRANT)) == [
        ok("the user of agent n1 may do all that it needs")
    ]


def test_a_user_without_any_limits_is_a_warning() -> None:
    answers = {"publish tasks": Answer.ALLOWED, "state another user": Answer.REFUSED}
    assert rights.judge_forbidden("agent n1", answers, GRANT) == warning(
        "the user of agent n1 may do everything, such as to publish tasks",
        f"give it a user of its own, with what `{GRANT}` prints (docs/broker.md)",
    )


def test_a_gap_in_the_limits_of_a_user_is_a_problem() -> None:
    answers = {
        "publish tasks": Answer.REFUSED,
        "read the events of all agents": Answer.MISSING,
        "state another user": Answer.REFUSED,
    }
    assert rights.judge_forbidden("agent n1", answers, GRANT) == problem(
        "the user of agent n1 may read the events of all agents, which it must not",
        f"grant it only what `{GRANT}` prints",
    )


def test_a_user_that_is_refused_everything_is_good() -> None:
    assert rights.judge_forbidden("agent n1", {"x": Answer.REFUSED}, GRANT) == ok(
        "the user of agent n1 is refused all 1 things that it must not do"
    )


# -- queues ----------------------------------------------------------------------------------------


def test_an_agent_that_runs_here_is_known_by_its_lock(tmp_path: Path) -> None:
    assert not queues.is_locked(tmp_path)
    descriptor = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    try:
        assert not queues.is_locked(tmp_path)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert queues.is_locked(tmp_path)
    finally:
        os.close(descriptor)
    assert not queues.is_locked(tmp_path)


# -- database --------------------------------------------------------------------------------------


def server(**given: object) -> list[Judgement]:
    usual = {
        "where": "database flow@h/d",
        "server": "PostgreSQL 15.9",
        "host": "h",
        "encrypted": True,
        "ahead": 0.01,
        "doubt": 0.002,
        "not_durable": (),
    }
    return list(database.judge_server(Health(**{**usual, **given})))  # type: ignore[arg-type]


HEALTHY = [
    ok("database flow@h/d: PostgreSQL 15.9"),
    ok("its clock and this machine's agree within 0.1 s"),
]


def test_a_good_database_has_two_good_lines() -> None:
    assert server() == HEALTHY


def test_a_database_elsewhere_without_encryption_is_told() -> None:
    assert server(encrypted=False)[1] == warning(
        "passwords and rows go to h without encryption",
        "add ?sslmode=verify-full&sslrootcert=FILE to database.url",
    )
    assert server(encrypted=False, host="localhost") == HEALTHY


def test_a_database_that_forgets_is_told() -> None:
    assert server(not_durable=("fsync", "synchronous_commit"))[1] == warning(
        "fsync, synchronous_commit is off: when its machine fails, it may forget what it has "
        "confirmed, and a task that has run may run again",
        "switch it on in postgresql.conf, or for flow's user with ALTER ROLE",
    )


@pytest.mark.parametrize(("ahead", "text"), [(90.0, "90.0 s ahead of"), (-1.5, "1.5 s behind")])
def test_clocks_that_differ_are_told(ahead: float, text: str) -> None:
    assert server(ahead=ahead)[1] == warning(
        f"its clock is {text} this machine's: times in listings are wrong by as much, promises "
        "are not",
        "let both machines follow the same time servers (chrony, systemd-timesyncd)",
    )


def test_a_slow_answer_makes_no_clock_wrong() -> None:
    assert server(ahead=1.5, doubt=0.8)[1] == ok("its clock and this machine's agree within 0.8 s")


@pytest.mark.parametrize(
    ("silence", "text"),
    [(20.0, "20 s"), (600.0, "10 min"), (5 * 3600.0, "5 h"), (9 * 86400.0, "9 days")],
)
def test_a_dispatcher_that_is_silent_is_a_problem(silence: float, text: str) -> None:
    leader = LeaderView(dispatcher="d1", epoch=3, heard_at=NOW - timedelta(seconds=silence))
    assert database.judge_leader(leader, NOW, "u.service") == problem(
        f"dispatcher d1 was last heard {text} ago: no task will start until one leads",
        "start one: systemctl start u.service, or flow dispatcher",
    )


def test_a_dispatcher_that_leads_is_good_and_none_is_told() -> None:
    leader = LeaderView(dispatcher="d1", epoch=3, heard_at=NOW - timedelta(seconds=3))
    assert database.judge_leader(leader, NOW, "u") == ok("dispatcher d1 leads, heard 3 s ago")
    assert database.judge_leader(None, NOW, "u") == warning(
        "no dispatcher has ever led on it: no task will run",
        "start one: systemctl start u, or flow dispatcher",
    )


# -- programs --------------------------------------------------------------------------------------


def of_node(tmp_path: Path, **environ: str) -> Subject:
    given = {"FLOW_HOME": str(tmp_path), "PATH": os.environ["PATH"], **environ}
    config = load_config(None, given, concerns=AGENT_SECTIONS, default_file=tmp_path / "none")
    return Subject(config, given, "unit", None, "n1")


def test_tasks_run_under_flows_own_interpreter_where_none_is_set(tmp_path: Path) -> None:
    found = list(node.check_programs(of_node(tmp_path, FLOW_AGENT_QUEUES="cpu,gpu")))
    assert found == [
        ok(f"Python tasks of cpu, gpu run under flow's own interpreter, {sys.executable}")
    ]


def test_an_interpreter_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    subject = of_node(tmp_path, FLOW_AGENT_PYTHON="/opt/no/python", FLOW_AGENT_QUEUES="gpu")
    assert list(node.check_programs(subject)) == [
        problem(
            "queue gpu: expected a Python interpreter on this node, got '/opt/no/python', which "
            "is none that can be run",
            "install it, or change [agent] python",
        )
    ]


def test_an_interpreter_is_asked_for_its_version(tmp_path: Path) -> None:
    own = tmp_path / "python"
    own.symlink_to("/usr/bin/python3")
    subject = of_node(tmp_path, FLOW_AGENT_PYTHON=str(own), FLOW_AGENT_QUEUES="gpu")
    command = ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert list(node.check_programs(subject)) == [
        ok(f"Python tasks of gpu run under {own}, Python {version}")
    ]


def test_what_is_no_python_or_an_old_one_is_a_problem() -> None:
    assert node.judge_interpreter("/bin/true", ["gpu"], "") == problem(
        "Python tasks of gpu would run under /bin/true, which does not run as a Python interpreter",
        "install it, or change [agent] python or python_for",
    )
    assert node.judge_interpreter("/p", ["gpu"], "3 9\n") == problem(
        "Python tasks of gpu would run under /p, Python 3.9", "use Python 3.10 or later"
    )


def test_a_node_without_bash_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    first = next(iter(node.check_programs(of_node(tmp_path))))
    assert first == problem("there is no bash, which shell tasks need", "install bash")


# -- cgroups ---------------------------------------------------------------------------------------

WITHOUT = "tasks can be run, and not held to memory, cpus or pids"
UNIT = Unit(
    "u",
    "active",
    "enabled",
    control_group="/flow.slice/u",
    delegated=frozenset({"memory", "cpu", "pids"}),
)


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    inside = tmp_path / "flow.slice" / "u" / "agent"
    inside.mkdir(parents=True)
    for name in ("cgroup.procs", "cgroup.kill", "memory.max", "memory.peak"):
        (inside / name).touch()
    return tmp_path


def test_a_unit_that_delegates_everything_is_good(cgroups: Path) -> None:
    assert list(node.check_cgroups(UNIT, cgroups)) == [ok("u delegates memory, cpu, pids")]


def test_a_unit_that_delegates_too_little_is_told(cgroups: Path) -> None:
    unit = Unit("u", "active", "enabled", delegated=frozenset({"memory"}))
    assert list(node.check_cgroups(unit, cgroups)) == [
        warning(
            "u delegates no cpu, pids: tasks cannot be held to it",
            "give it Delegate=memory pids cpu, see systemctl edit",
        )
    ]


def test_what_an_old_kernel_lacks_is_told(cgroups: Path) -> None:
    for name in ("cgroup.kill", "memory.peak"):
        (cgroups / "flow.slice" / "u" / "agent" / name).unlink()
    assert list(node.check_cgroups(UNIT, cgroups))[1:] == [
        note("the kernel is older than 5.14: tasks are killed process by process"),
        note("the kernel is older than 5.19: a task's peak of memory is not recorded"),
    ]


def test_a_controller_that_is_switched_off_is_told(cgroups: Path) -> None:
    (cgroups / "cgroup.controllers").write_text("cpu pids\n")
    assert next(iter(node.check_cgroups(UNIT, cgroups))) == warning(
        "the kernel offers no controller memory: tasks cannot be held to it",
        "see cgroup_disable= in /proc/cmdline",
    )


def test_an_agent_without_a_unit_is_told(cgroups: Path) -> None:
    assert list(node.check_cgroups(None, cgroups)) == [
        note(
            f"an agent that systemd does not start has no cgroup of its own: {WITHOUT}",
            "start it as flow-agent@QUEUE.service",
        )
    ]


@pytest.mark.parametrize(
    ("hybrid", "how"), [(True, "has cgroup v2 for names only"), (False, "has no cgroup v2")]
)
def test_a_machine_without_cgroup_v2_is_told(tmp_path: Path, hybrid: bool, how: str) -> None:
    if hybrid:
        (tmp_path / "unified").mkdir()
        (tmp_path / "unified" / "cgroup.controllers").touch()
    assert list(node.check_cgroups(UNIT, tmp_path)) == [
        warning(
            f"this machine {how}: {WITHOUT}",
            "boot with systemd.unified_cgroup_hierarchy=1; in a container, on its host",
        )
    ]


# -- code cache ------------------------------------------------------------------------------------


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """One bundle of two files of four bytes each, one of them executable."""
    folder = tmp_path / "cache"
    kept = CodeCache(folder, 10**9)
    files = []
    for name, content, executable in (("a.py", b"aaaa", False), ("b.sh", b"bbbb", True)):
        new = kept.open_new()
        new.write_bytes(content)
        kept.keep(new, digest(content))
        files.append(ShippedFile(name, digest(content), len(content), executable))
    manifest = Manifest.of(files)
    kept.build(digest(manifest.encode()), manifest)
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)


def test_a_whole_cache_is_good(cache: Path) -> None:
    assert list(node.check_cache(cache, 1024**3)) == [
        ok("0 MiB of at most 1024; all 3 files are whole")
    ]
    assert list(node.check_cache(cache / "none", 1024**3)) == [
        ok("0 MiB of at most 1024; all 0 files are whole")
    ]


def test_a_file_that_was_changed_is_found(cache: Path) -> None:
    (script,) = cache.glob("trees/*/dags/a.py")
    script.chmod(0o600)
    script.write_bytes(b"evil")
    (told,) = node.check_cache(cache, 1024**3)
    assert told.what.startswith("1 of 3 files are not what they should be, such as ")
    assert told.what.endswith(digest(b"aaaa"))
    assert told.remedy == (
        "nothing runs with them, they are fetched again; is the disk, or somebody, changing them?"
    )


def test_a_cache_that_takes_too_long_is_counted_whole_and_looked_at_in_part(cache: Path) -> None:
    turns = iter([True, False, False])
    found = audit(cache, lambda: next(turns))
    assert (found.files, found.size, found.checked, found.damaged) == (3, 12, 1, [])


def test_a_cache_over_its_size_is_told(cache: Path) -> None:
    assert list(node.check_cache(cache, 1))[1] == note(
        "it is over its size: what runs is kept, the rest goes with the next fetch"
    )
