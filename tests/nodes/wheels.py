"""flow as nodes get it: its wheel, and a wheelhouse of all that it needs. Nodes fetch nothing."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.nodes.machine import CACHE, only_one

ROOT = Path(__file__).resolve().parents[2]
#: What the nodes run: Debian 12's interpreter.
TARGET = ["--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=abi3", "--abi=none"]
TARGET += [f"--platform=manylinux{tag}_x86_64" for tag in ("2014", "_2_17", "_2_28", "_2_34")]
#: What a wheel is made of.
SOURCES = ("flow", "dispatcher", "agent", "pyproject.toml", "README.md", "LICENSE")


def wheelhouse(folder: Path, *versions: str) -> str:
    """Fill *folder* with what flow needs and with flow itself: as it is, and once more under each
    of *versions*, to which it can be upgraded. Returns the version that it is.

    Raises ``subprocess.CalledProcessError`` when pip fails; its output has been shown.
    """
    folder.mkdir()
    for wheel in _requirements().glob("*.whl"):
        shutil.copy2(wheel, folder)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    assert found, "pyproject.toml says the version"
    for version in (found[1], *versions):
        _build(folder, version, project.replace(found[0], f'version = "{version}"'))
    return found[1]


def _requirements() -> Path:
    """A cached folder with the wheels of flow's dependencies, at the versions that are tested."""
    project = (ROOT / "pyproject.toml").read_bytes()
    constraints = ROOT / "constraints.txt"
    recipe = project + constraints.read_bytes() + " ".join(TARGET).encode()
    folder = CACHE / f"wheels-{hashlib.sha256(recipe).hexdigest()[:16]}"
    with only_one(CACHE / "wheels.lock"):
        if folder.is_dir():
            return folder
        making = folder.with_name(f"{folder.name}.making-{os.getpid()}")
        making.mkdir()
        own = making / "own"
        own.mkdir()
        _build(own, "0.0.0", project.decode().replace('version = "', 'version = "0.0.0" # "', 1))
        (wheel,) = own.glob("*.whl")
        _pip("download", "--only-binary=:all:", *TARGET, f"--constraint={constraints}",
             f"--dest={making}", f"{wheel}[dispatcher]")  # fmt: skip
        (making / wheel.name).unlink()
        shutil.rmtree(own)
        making.rename(folder)
    return folder


def _build(folder: Path, version: str, project: str) -> None:
    """Put a wheel of flow into *folder*, from a copy of the sources: builds leave things behind."""
    source = folder / f".source-{version}"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, source)
    (source / "pyproject.toml").write_text(project, encoding="utf-8")
    _pip("wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", str(source))
    shutil.rmtree(source)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)
