"""A copy of the checkout in which one rule at a time is broken, with an environment of its own.

The environment is the checkout's, entry by entry, except that flow is imported from the copy: also
by the agents, keepers and tasks that tests start, which inherit no PYTHONPATH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mutants.mutant import Mutant

ROOT = Path(__file__).resolve().parent.parent.parent
_LEFT_OUT = (
    ".git",
    ".venv",
    ".*_cache",
    ".hypothesis",
    "__pycache__",
    "*.egg-info",
    "build",
    "dist",
)
#: Whose imports are checked.
_PACKAGES = ("flow", "dispatcher", "agent", "tests")


class Tree:
    """The copy in *folder*, which must not exist yet."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        self.root = folder
        self.python = _environment(folder)
        self._changes = 0
        self._check_imports()

    @contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        """Within the block the rule is broken."""
        path = self.root / mutant.file
        text = path.read_text()
        self._write(path, mutant.applied(text))
        try:
            yield
        finally:
            self._write(path, text)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)
        # Compiled code is known by its source's size and time in seconds: no two are alike.
        self._changes += 1
        moment = path.stat().st_mtime + self._changes
        os.utime(path, (moment, moment))

    def _check_imports(self) -> None:
        """Everything must come from the copy, wherever a process is started."""
        names = ", ".join(_PACKAGES)
        files = ", ".join(f"{name}.__file__" for name in _PACKAGES)
        command = [str(self.python), "-c", f"import {names}; print({files}, sep='\\n')"]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True)
        strays = [name for name in done.stdout.split() if not Path(name).is_relative_to(self.root)]
        if strays:
            raise RuntimeError(f"expected imports from {self.root}, got {', '.join(strays)}")


def _environment(folder: Path) -> Path:
    """``.venv`` in *folder*, like that of this process; the path of its Python."""
    venv = folder / ".venv"
    old = Path(sysconfig.get_path("purelib"))
    new = venv / old.relative_to(sys.prefix)
    new.mkdir(parents=True)
    for entry in old.iterdir():
        if entry.suffix == ".pth" and str(ROOT) in entry.read_text().splitlines():
            (new / entry.name).write_text(f"{folder}\n")
        else:
            (new / entry.name).symlink_to(entry)
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", venv)
    scripts = venv / "bin"
    scripts.mkdir()
    for script in (Path(sys.prefix) / "bin").iterdir():
        if script.is_symlink():
            (scripts / script.name).symlink_to(script.resolve())
        elif (text := script.read_bytes()).startswith(b"#!"):
            (scripts / script.name).write_bytes(text.replace(_bytes(sys.prefix), _bytes(venv)))
            (scripts / script.name).chmod(0o755)
    return scripts / "python"


def _bytes(path: str | Path) -> bytes:
    return os.fsencode(path)
