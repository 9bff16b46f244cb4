"""The unit files, as systemd itself judges them. Nothing here needs a running systemd."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from flow.cli.main import root as flow_command
from flow.errors import ConfigError, UsageError

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "systemd"
#: Names of queues that a user may type after the @.
INSTANCES = ("gpu", "ML", "gpu.a100", "my-queue", "under_score")
_SYSTEM_UNITS = Path("/usr/lib/systemd/system")


def _run(*command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    program = shutil.which(command[0])
    assert program, f"{command[0]}: expected it to be installed (apt-get install systemd)"
    return subprocess.run(
        [program, *command[1:]], input=text, capture_output=True, text=True, check=False
    )


def _settings(unit: str) -> dict[str, str]:
    """The last value of each setting of the unit's [Service]."""
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((UNITS / unit).read_text())
    return dict(parser["Service"])


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root file system with the units in their places and programs where they name them."""
    for program in ("opt/flow/bin/flow", "opt/flow/bin/flow-agent", "bin/kill"):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/true", tmp_path / program)
    shutil.copytree(_SYSTEM_UNITS, tmp_path / "usr/lib/systemd/system", symlinks=True)
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    for unit in (*UNITS.glob("*.service"), *UNITS.glob("*.slice")):
        shutil.copy(unit, units)
    for name in ("passwd", "group"):
        shutil.copy(f"/etc/{name}", tmp_path / "etc")
    return tmp_path


@pytest.mark.parametrize(
    "unit",
    [
        "flow-dispatcher.service",
        "flow.slice",
        *(f"flow-agent@{name}.service" for name in INSTANCES),
    ],
)
def test_systemd_finds_nothing_wrong_with_a_unit(machine: Path, unit: str) -> None:
    done = _run("systemd-analyze", "verify", "--man=no", f"--root={machine}", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_what_systemd_finds_wrong_would_be_seen(machine: Path) -> None:
    with (machine / "etc/systemd/system/flow.slice").open("a") as unit:
        unit.write("Foo=bar\n")
    done = _run("systemd-analyze", "verify", "--man=no", f"--root={machine}", "flow.slice")
    assert "Unknown key 'Foo'" in done.stderr


@pytest.mark.parametrize(
    ("unit", "limit"), [("flow-dispatcher.service", 2.0), ("flow-agent@.service", 4.0)]
)
def test_the_exposure_of_a_unit_is_below_its_limit(unit: str, limit: float) -> None:
    # The threshold is in tenths here. The figures are systemd's own for its own list of settings.
    command = ("systemd-analyze", "security", "--offline=true", "--no-pager", "--json=off")
    threshold = f"--threshold={limit * 10 - 1:.0f}"
    done = _run(*command, threshold, str(UNITS / unit))
    assert done.returncode == 0, done.stdout + done.stderr
    (level,) = re.findall(r"exposure level for .*?: ([0-9.]+)", done.stdout)
    assert float(level) < limit


def test_a_unit_without_hardening_would_be_above_any_limit(tmp_path: Path) -> None:
    unit = tmp_path / "bare.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    command = ("systemd-analyze", "security", "--offline=true", "--no-pager")
    done = _run(*command, "--threshold=39", str(unit))
    assert done.returncode != 0


def test_the_user_and_the_folders_are_made(machine: Path) -> None:
    users = (UNITS / "flow.sysusers.conf").read_text()
    done = _run("systemd-sysusers", f"--root={machine}", "-", text=users)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^flow:.*:/var/lib/flow:", (machine / "etc/passwd").read_text(), re.MULTILINE)
    folders = (UNITS / "flow.tmpfiles.conf").read_text()
    dry = re.sub(r"\bflow flow\b", "root root", folders)  # the test may not be root
    done = _run("systemd-tmpfiles", "--create", f"--root={machine}", "-", text=dry)
    assert done.returncode == 0, done.stderr
    assert (machine / "etc/flow/credentials").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("unit", ["flow-dispatcher.service", "flow-agent@.service"])
def test_wrong_usage_and_wrong_settings_do_not_restart_for_ever(unit: str) -> None:
    prevented = _settings(unit)["RestartPreventExitStatus"].split()
    assert prevented == [str(UsageError.exit_code), str(ConfigError.exit_code)]
    assert _settings(unit)["Restart"] == "always"


@pytest.mark.parametrize("unit", ["flow-dispatcher.service", "flow-agent@.service"])
def test_a_unit_works_with_systemd_252(unit: str) -> None:
    settings = _settings(unit)
    assert settings["Type"] == "notify"  # notify-reload is 253's
    assert settings["ExecReload"] == "/bin/kill -HUP $MAINPID"
    later = {"ImportCredential", "OpenFile", "RestartSteps", "DelegateSubgroup", "PrivatePIDs"}
    assert not later & set(settings)


@pytest.mark.parametrize("unit", ["flow-dispatcher.service", "flow-agent@.service"])
def test_a_missing_secret_does_not_keep_a_unit_from_starting(unit: str) -> None:
    text = (UNITS / unit).read_text()
    loaded = set(re.findall(r"^LoadCredential=([a-z-]+):", text, re.MULTILINE))
    assert loaded
    assert set(re.findall(r"^SetCredential=([a-z-]+):\\n$", text, re.MULTILINE)) == loaded


def test_the_commands_of_the_units_exist() -> None:
    assert _settings("flow-dispatcher.service")["ExecStart"] == "/opt/flow/bin/flow dispatcher"
    assert "dispatcher" in flow_command.commands
    assert _settings("flow-agent@.service")["ExecStart"].endswith("flow-agent --instance %i")


@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.iterdir()))
def test_every_unit_file_says_what_it_is_for(unit: str) -> None:
    assert (UNITS / unit).read_text().startswith("# ")
