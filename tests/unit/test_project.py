"""What holds for the project as a whole: packaging, pins, lint rules, imports."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import tomli

from tests.unit.authored import author

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("flow", "dispatcher", "agent")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomli.loads(PYPROJECT)["project"]


def _sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def _canonical(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    # From a copy: setuptools leaves its build folder in the tree, and another run may be there.
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "out"]
    done = subprocess.run(build, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next((copy / "out").glob("*.whl")))


def test_the_wheel_holds_every_module_the_migrations_and_the_type_markers(
    wheel: zipfile.ZipFile,
) -> None:
    names = set(wheel.namelist())
    expected = {path.relative_to(ROOT).as_posix() for path in _sources()}
    expected |= {f"{package}/py.typed" for package in PACKAGES}
    assert expected - names == set()
    assert any(name.startswith("dispatcher/store/migrations/") for name in names)


def test_the_wheel_holds_nothing_but_the_three_packages(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_a_plain_install_brings_no_database_driver(wheel: zipfile.ZipFile) -> None:
    metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    requires = Parser().parsestr(wheel.read(metadata).decode()).get_all("Requires-Dist") or []
    plain = {_canonical(line) for line in requires if "extra ==" not in line}
    assert plain == {"aiormq", "click", "jinja2", "msgspec", "pika", "rich", "tomli", "yarl"}


def test_an_agent_runs_where_only_its_own_libraries_are(agent_environment: Path) -> None:
    agent = [path for path in _sources() if path.is_relative_to(ROOT / "agent")]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in agent]
    imports = [name.removesuffix(".__init__") for name in modules if "__main__" not in name]
    code = "\n".join(f"import {name}" for name in [*imports, "flow.cli.agent"])
    code += "\nimport importlib.util"
    code += "\nassert not importlib.util.find_spec('peewee')"
    code += "\nassert not importlib.util.find_spec('psycopg2')"
    # Isolated: neither the checkout nor the user's site-packages may help.
    command = [str(agent_environment / "python"), "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    help_text = subprocess.run(
        [str(agent_environment / "flow-agent"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "--queue" in help_text


def test_authoring_imports_the_standard_library_only() -> None:
    # -S leaves out site-packages, as under a user's interpreter that has none of flow's libraries.
    # _sysconfigdata is the standard library's too, named after the platform.
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import flow, flow.authoring, flow.dagspec, flow.errors, flow.states\n"
        "import flow.runtime.bash, flow.runtime.python\n"
        "from flow import *\n"
        "tops = {name.partition('.')[0] for name in sys.modules}\n"
        "tops -= {*sys.stdlib_module_names, 'flow', '__main__'}\n"
        "print(*sorted(top for top in tops if not top.startswith('_sysconfigdata')))\n"
        "print(*sorted(name for name in sys.modules if name.startswith('flow.')))"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    foreign, loaded = done.stdout.splitlines()
    assert foreign == ""
    authoring = ("flow.authoring", "flow.dagspec", "flow.errors", "flow.names", "flow.states")
    allowed = (*authoring, "flow.runtime", "flow.sizes")
    assert [name for name in loaded.split() if not name.startswith(allowed)] == []


def test_nothing_is_unpickled_or_evaluated() -> None:
    banned = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
    found: list[str] = []
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = ["pickle"] if node.func.id == "eval" else []
            if banned & {name.partition(".")[0] for name in names}:
                found.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}")
    assert found == []


def test_constraints_are_exact_pins_without_index_addresses() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [
        line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._]+", line)
    ] == []
    assert not any("://" in line for line in lines)


def test_every_declared_dependency_is_pinned_and_explained() -> None:
    declared = list(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        declared += extra
    names = {_canonical(line) for line in declared}
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {_canonical(line) for line in text.splitlines() if not line.startswith("#")}
    assert names - pinned == set()
    explained = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    assert {name for name in names if f"`{name}`" not in explained} == set()


def test_every_disabled_lint_rule_gives_its_reason() -> None:
    section = PYPROJECT.partition("[tool.ruff.lint]")[2].partition("[tool.importlinter]")[0]
    ignores = section.partition("\nignore = [")[2]
    rules = [line.strip() for line in ignores.splitlines() if re.match(r'\s+"[A-Z]+\d*",', line)]
    assert rules
    assert [line for line in rules if not re.search(r"# \w+", line)] == []


def test_the_version_has_its_entry_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {PROJECT['version']}" in changelog


def _readme_commands() -> list[list[str]]:
    """The commands in the README's blocks for the shell, without what runs them or follows."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(sh|console)\n(.*?)^```$", readme, flags=re.DOTALL | re.MULTILINE)
    lines = [
        line.removeprefix("$ ")
        for kind, block in blocks
        for line in block.splitlines()
        # In a console's block the rest is what the commands have printed.
        if kind == "sh" or line.startswith("$ ")
    ]
    commands = [re.sub(r"^RUN=\$\((.*)\)$", r"\1", line).partition(" | ")[0] for line in lines]
    return [words for line in commands if (words := shlex.split(line.rstrip("& "), comments=True))]


def test_the_makefile_has_every_target_of_the_readme() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = {words[1] for words in _readme_commands() if words[0] == "make"}
    assert named
    assert named - targets == set()


def test_every_flow_command_of_the_readme_exists_with_its_options() -> None:
    commands = [words for words in _readme_commands() if words[0].startswith("flow")]
    assert commands
    for program, *words in commands:
        options = {word for word in words if word.startswith("--")}
        # The path of subcommands is what comes before options and arguments in capitals, names
        # or dollar signs; arguments do not disturb --help.
        run = [str(Path(sys.executable).parent / program), *words[:2], "--help"]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(run)}: {done.stderr}"
        assert [option for option in options if option not in done.stdout] == []


def test_the_readmes_example_is_a_dag() -> None:
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (spec,) = author(code.replace("from __future__", "#"))
    upstream = {task.task_id: task.upstream for task in spec.tasks}
    assert upstream == {"fetch": (), "train": ("fetch",), "report": ("train",)}
