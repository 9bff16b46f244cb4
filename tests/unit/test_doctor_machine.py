"""What `flow doctor` says of a machine, its folders and its units."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flow.cli.checks import certificates, hosts, machine, settings, subjects, units
from flow.cli.checks.certificates import Validity, check_file, judge, validity
from flow.cli.checks.finding import Judgement, note, ok, problem, warning
from flow.cli.checks.units import Unit, check_unit, parse_unit
from flow.config import AGENT_SECTIONS, DISPATCHER_SECTIONS, load_config

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


# -- clock -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "judgement"),
    [
        ("yes\n", ok("set by time servers")),
        (
            "no\n",
            warning(
                "no time server sets this machine's clock",
                "install chrony or systemd-timesyncd",
            ),
        ),
        (None, note("whether a time server sets it is not known from here")),
    ],
)
def test_a_clock_that_nobody_sets_is_told(said: str | None, judgement: Judgement) -> None:
    assert machine.judge_clock(said) == judgement


def test_a_container_has_its_hosts_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CONTAINER", tmp_path)
    assert list(machine.check_clock()) == [
        note("this is a container: its clock is that of its host")
    ]


# -- folders ---------------------------------------------------------------------------------------

GIB = 1024**3


@pytest.mark.parametrize(
    ("free", "size", "text"),
    [(GIB - 1, 2 * GIB, "1.0 GiB free, 50%"), (4 * GIB, 100 * GIB, "4.0 GiB free, 4%")],
)
def test_little_room_is_told(free: int, size: int, text: str) -> None:
    assert machine.judge_room(Path("/f"), free, size) == warning(
        f"/f has little room: {text}",
        "make some; an agent whose disk is full takes no tasks, a dispatcher keeps no logs",
    )


def test_enough_room_is_good() -> None:
    assert machine.judge_room(Path("/f"), 50 * GIB, 100 * GIB) == ok("/f: 50.0 GiB free, 50%")


MOUNTS = """\
/dev/vda1 / ext4 rw 0 0
proc /proc proc rw 0 0
fs:/home /srv/with\\040blank nfs4 rw 0 0
tmpfs /srv/with\\040blank/local tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib/flow", "ext4"),
        ("/srv/with blank/flow", "nfs4"),
        ("/srv/with blank/local/flow", "tmpfs"),
    ],
)
def test_the_file_system_of_a_folder_is_the_nearest_mount(folder: str, kind: str) -> None:
    assert machine.file_system(Path(folder), MOUNTS) == kind


def test_a_folder_on_a_file_server_is_told(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("fs:/x / nfs rw 0 0\n")
    found = list(machine.check_folder(tmp_path, "", mounts))
    assert found[-1] == warning(
        f"{tmp_path} is on nfs, where locks and fsync are another machine's word",
        "set home to a folder on a local disk",
    )


def test_a_folder_that_takes_no_file_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert problem(
        f"{tmp_path} takes no file: No space left on device",
        "make room, or let the user that flow runs as write there",
    ) in list(machine.check_folder(tmp_path, ""))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    assert list(machine.check_folder(tmp_path / "f", "")) == [
        problem(f"{tmp_path}/f is no folder", "remove it, or set another")
    ]


def test_a_folder_of_another_user_is_a_problem_to_a_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    own = tmp_path.stat().st_uid
    user = "daemon"
    assert next(iter(machine.check_folder(tmp_path, user))) == problem(
        f"{tmp_path} belongs to user id {own}, and flow runs as daemon",
        f"chown -R daemon: {tmp_path}",
    )


def test_an_interpreter_for_dag_files_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.py").touch()
    assert list(machine.check_dags(tmp_path, "/opt/no/python", {"PATH": "/bin"})) == [
        ok(f"{tmp_path} has 1 Python file; `flow dags errors` lists those that cannot be read"),
        problem(
            "dags.python is '/opt/no/python', which is no program here",
            "install it, or change dags.python",
        ),
    ]


# -- units -----------------------------------------------------------------------------------------

SHOWN = """\
Id=flow-agent@gpu.service
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
Result=success
StatusText=1/4 slots busy, queue gpu
User=flow
Environment=FLOW_HOME=/var/lib/flow PYTHONUNBUFFERED=1 "FLOW_AGENT_NAME=a b"
WatchdogUSec=30s
ControlGroup=/flow.slice/flow-agent@gpu.service
Delegate=yes
DelegateControllers=cpu memory pids
"""


def test_a_units_settings_are_those_that_its_process_sees() -> None:
    unit = parse_unit(SHOWN)
    assert unit is not None
    assert unit.settings == {"FLOW_HOME": "/var/lib/flow", "FLOW_AGENT_NAME": "a b"}
    assert unit.delegated == {"cpu", "memory", "pids"}
    assert list(check_unit(unit, unit.name)) == [
        ok("flow-agent@gpu.service runs: 1/4 slots busy, queue gpu")
    ]


def test_a_units_environment_file_goes_before_its_variables(tmp_path: Path) -> None:
    file = tmp_path / "agent-gpu.env"
    file.write_text("# for this node\nFLOW_AGENT_SLOTS=2\nFLOW_HOME='/srv/a b'\n")
    unit = parse_unit(f"{SHOWN}EnvironmentFiles={file} (ignore_errors=yes)\n")
    assert unit is not None
    assert unit.settings["FLOW_HOME"] == "/srv/a b"
    assert unit.settings["FLOW_AGENT_SLOTS"] == "2"
    gone = parse_unit(f"{SHOWN}EnvironmentFiles={tmp_path}/none (ignore_errors=yes)\n")
    assert gone is not None
    assert gone.settings["FLOW_HOME"] == "/var/lib/flow"


def test_whoever_looks_may_have_no_right_to_the_environment_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refused)
    shown = f"{SHOWN}EnvironmentFiles=/root/agent-gpu.env (ignore_errors=yes)\n"
    assert parse_unit(shown) == parse_unit(SHOWN)


def test_a_unit_without_an_environment_file_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    # An empty path would be the working directory, which whoever asks may not be able to look at.
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("it read a file"))
    assert parse_unit(f"{SHOWN}EnvironmentFiles=\n") == parse_unit(SHOWN)


@pytest.mark.parametrize("who", ["root", "flow"])
def test_root_and_the_units_user_see_what_it_sees(who: str) -> None:
    assert list(units.check_user(parse_unit(SHOWN), who)) == []


def test_another_user_is_told_that_it_sees_less_than_the_unit() -> None:
    assert list(units.check_user(parse_unit(SHOWN), "mara")) == [
        warning(
            "user mara may not read all that flow-agent@gpu.service does, so some of the below is "
            "only that",
            "run flow doctor as root",
        )
    ]


def test_a_unit_that_systemd_has_no_file_of_is_none() -> None:
    assert parse_unit("Id=x.service\nLoadState=not-found\nActiveState=inactive\n") is None


@pytest.mark.parametrize(
    ("unit", "found"),
    [
        (
            None,
            [note("systemd has no u here: who starts flow by hand has to restart it, too")],
        ),
        (
            Unit("u", "failed", "enabled", result="exit-code"),
            [problem("u has failed (exit-code)", "see journalctl -u u -n 20")],
        ),
        (Unit("u", "inactive", "enabled"), [warning("u is inactive", "systemctl start u")]),
        (
            Unit("u", "activating", "enabled", status="starting"),
            [warning("u is still starting: starting", "see journalctl -u u -n 20")],
        ),
        (
            Unit("u", "active", "disabled", watchdog=False),
            [
                ok("u runs"),
                warning("u does not start when this machine boots", "systemctl enable u"),
                warning(
                    "u has no watchdog: a process that hangs is not restarted",
                    "remove what sets WatchdogSec= to 0, see systemctl cat u",
                ),
            ],
        ),
    ],
)
def test_a_unit_that_does_not_run_or_would_not_is_told(
    unit: Unit | None, found: list[Judgement]
) -> None:
    assert list(check_unit(unit, "u")) == found


def test_a_command_that_hangs_or_fails_has_no_output() -> None:
    assert units.output_of("sleep", "60", patience=0.05) is None
    assert units.output_of("false") is None
    assert units.output_of("/no/such/program") is None
    assert units.output_of("echo", "x") == "x\n"


# -- settings --------------------------------------------------------------------------------------


def subject(path: Path, environ: dict[str, str], agent: str | None = "n1") -> subjects.Subject:
    concerns = AGENT_SECTIONS if agent else DISPATCHER_SECTIONS
    config = load_config(path, environ, concerns=concerns)
    return subjects.Subject(config, environ, "unit", None, agent)


def test_a_secret_that_everybody_may_read_is_told(tmp_path: Path) -> None:
    file, password = tmp_path / "flow.toml", tmp_path / "password"
    file.write_text('[broker]\nurl = "amqp://u:p@h/"\n')
    file.chmod(0o644)
    found = list(settings.check_settings(subject(file, {"FLOW_HOME": str(tmp_path)})))
    assert found[1:] == [
        warning(
            f"{file} holds the password of broker.url, and everybody on this machine may read it "
            "(mode 0644)",
            f"chmod o-rwx {file}",
        )
    ]
    file.write_text(f'[broker]\nurl = "amqp://u@h/"\npassword_file = "{password}"\n')
    password.write_text("p\n")
    password.chmod(0o640)
    assert len(list(settings.check_settings(subject(file, {})))) == 1
    password.chmod(0o604)
    (told,) = list(settings.check_settings(subject(file, {})))[1:]
    assert told.what.startswith(f"{password} holds the password of broker.url")


def test_a_node_that_knows_the_database_is_told(tmp_path: Path) -> None:
    file = tmp_path / "flow.toml"
    file.write_text('[database]\nurl = "postgresql://h/d"\n')
    assert list(settings.check_settings(subject(file, {})))[1:] == [
        warning(
            f"{file}:2 says where the database is, which no agent needs and every task here may "
            "read",
            "remove it, unless a dispatcher runs here as well",
        )
    ]
    assert list(settings.check_settings(subject(file, {}, agent=None)))[1:] == [
        note(
            "dispatcher.verify_users is off: who may log in at the broker may pass for an agent",
            "give each agent a broker user of its own, then switch it on (docs/broker.md)",
        )
    ]


def test_a_node_with_the_databases_credential_is_told(tmp_path: Path) -> None:
    file = tmp_path / "flow.toml"
    file.touch()
    (tmp_path / "database-password").write_text("secret")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    (told,) = list(settings.check_settings(subject(file, environ)))[1:]
    assert told == warning(
        f"the database's password is in {tmp_path}, which no agent needs",
        "remove the credential from the agent's unit",
    )


def test_what_the_reader_of_settings_warns_of_is_told(tmp_path: Path) -> None:
    file = tmp_path / "flow.toml"
    file.write_text('[dags]\nfoldr = "x"\n')
    (told,) = list(settings.check_settings(subject(file, {})))[1:]
    assert told == warning(
        f"{file}:2: unknown key 'dags.foldr'", "did you mean 'folder'? (ignored: not used here)"
    )


# -- who is at home --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "given", "found"),
    [
        ("", {}, [None]),
        ("", {"database_library": False}, [""]),
        ('[database]\nurl = "postgresql://h/d"\n', {}, [None]),
        ('[database]\nurl = "postgresql://h/d"\n', {"database_library": False}, [""]),
        ("[agent]\nslots = 1\n", {}, [""]),
        ("[agent]\nslots = 1\n", {"dispatcher_unit": True}, [None, ""]),
        ("[agent]\nslots = 1\n", {"instances": ["cpu", "gpu"]}, ["cpu", "gpu"]),
    ],
)
def test_who_is_at_home_is_guessed_from_settings_and_units(
    tmp_path: Path, text: str, given: dict[str, object], found: list[str | None]
) -> None:
    file = tmp_path / "flow.toml"
    file.write_text(text)
    config = load_config(file, {"FLOW_HOME": str(tmp_path)}, concerns=frozenset())
    facts = {"instances": [], "dispatcher_unit": False, "database_library": True}
    assert subjects.chosen(config, **{**facts, **given}) == found  # type: ignore[arg-type]


def test_the_agents_of_flow_standalone_are_no_agents_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "agents" / "local-default").mkdir(parents=True)
    facts = {"FLOW_HOME": str(tmp_path), "FLOW_CONFIG": ""}

    def found(**environ: str) -> list[str | None]:
        config = load_config(None, {**facts, **environ}, default_file=tmp_path / "none")
        return subjects.chosen(config, instances=[], dispatcher_unit=False, database_library=True)

    assert found() == [None]
    assert found(FLOW_BROKER_URL="amqp://h/") == [""]


def test_an_agent_is_checked_with_the_settings_of_its_instance(tmp_path: Path) -> None:
    file = tmp_path / "flow.toml"
    file.write_text('[agents.gpu]\nname = "gpu1"\nqueues = ["gpu", "ml"]\n')
    assert subjects.guess(file, {"FLOW_HOME": str(tmp_path)}) == ["gpu"]
    found = subjects.find_subject("gpu", file, {"FLOW_HOME": str(tmp_path)})
    assert (found.agent, found.unit_name) == ("gpu1", "flow-agent@gpu.service")
    assert found.config.agent.queues == ("gpu", "ml")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.3.2.1", "::1", "[::1]", "/run/pg"])
def test_some_hosts_are_this_machine(host: str) -> None:
    assert hosts.is_here(host)


def test_other_hosts_are_not() -> None:
    assert not hosts.is_here("10.0.0.1")
    assert not hosts.is_here("rabbit.example.org")


# -- certificates ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "end", "judgement"),
    [
        (-1, 100, ok("it is good for 100 days, until 2027-03-01")),
        (-1, 29, warning("it expires in 29 days, on 2026-12-20", "renew it")),
        (-2, 0, problem("it has expired on 2026-11-21", "renew it")),
        (
            1,
            9,
            problem(
                "it counts only from 2026-11-22 12:00 UTC on", "is this machine's clock right?"
            ),
        ),
    ],
)
def test_a_certificate_is_judged_by_its_dates(begin: int, end: int, judgement: Judgement) -> None:
    dates = Validity(NOW + timedelta(days=begin), NOW + timedelta(days=end))
    assert judge("it", dates, NOW) == judgement


def test_the_dates_of_a_real_certificate_are_those_that_openssl_prints(tmp_path: Path) -> None:
    file, key = tmp_path / "c.pem", tmp_path / "k.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    make += ["-nodes", "-keyout", str(key), "-out", str(file), "-days", "40000", "-subj", "/CN=x"]
    subprocess.run(make, check=True, capture_output=True)
    command = ["openssl", "x509", "-noout", "-enddate", "-dateopt", "iso_8601", "-in", str(file)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (der,) = certificates.certificates_in(file.read_bytes())
    # Beyond 2049: a date with four digits for the year.
    assert f"notAfter={validity(der).end:%Y-%m-%d %H:%M:%S}Z" == shown.strip()
    assert next(iter(check_file(file, "the broker's", datetime.now(UTC)))).what.startswith(
        f"the broker's in {file} is good for 39999 days, until "
    )


def test_a_file_without_certificates_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "c.pem"
    file.write_text("nothing")
    assert list(check_file(file, "this side's", NOW)) == [
        problem(
            f"this side's, {file}: expected certificates in PEM, got none",
            "name another file, or write one there",
        )
    ]
    file.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (told,) = check_file(file, "this side's", NOW)
    assert told.level == "problem"


@pytest.mark.parametrize("data", [b"", b"0", b"\x30\x82\xff\xff", b"\x30\x03abc"])
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    with pytest.raises(certificates.NotACertificate):
        validity(data)
