"""An environment as on a node: what ``pip install flow-dispatch`` brings and nothing more.

Made offline and in a second from the libraries that are installed here: the requirements that
flow declares without extras, theirs in turn, and a copy of flow's own packages.
"""

from __future__ import annotations

import re
import shutil
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

PACKAGES = ("flow", "dispatcher", "agent")


def make_agent_environment(folder: Path, root: Path) -> Path:
    """Make it in the empty *folder* from the checkout at *root*; return its ``bin`` folder."""
    venv.create(folder, with_pip=False, symlinks=True)
    target = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    flow = distribution("flow-dispatch")
    for library in _closure(flow):
        _copy(library, target)
    for package in PACKAGES:
        shutil.copytree(root / package, target / package)
    for entry in flow.entry_points.select(group="console_scripts"):
        module, _, function = entry.value.partition(":")
        script = folder / "bin" / entry.name
        script.write_text(
            f"#!{folder}/bin/python\nimport sys\nfrom {module} import {function}\n"
            f"sys.exit({function}())\n",
            encoding="utf-8",
        )
        script.chmod(0o755)
    return folder / "bin"


def _closure(flow: Distribution) -> Iterator[Distribution]:
    """The libraries that *flow* needs without extras, each once."""
    seen: set[str] = set()
    waiting = [flow]
    while waiting:
        current = waiting.pop()
        for requirement in current.requires or ():
            name, needed = _parse(requirement)
            if needed and name not in seen:
                seen.add(name)
                library = distribution(name)
                waiting.append(library)
                yield library


def _parse(requirement: str) -> tuple[str, bool]:
    """A requirement's canonical name, and whether it applies here without extras."""
    parsed = Requirement(requirement)
    name = re.sub(r"[-_.]+", "-", parsed.name).lower()
    return name, parsed.marker is None or parsed.marker.evaluate({"extra": ""})


def _copy(library: Distribution, target: Path) -> None:
    for file in library.files or ():
        if ".." in file.parts or "__pycache__" in file.parts:
            continue  # scripts, which a library does not need
        source = Path(str(library.locate_file(file)))
        destination = target / file
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, destination)
