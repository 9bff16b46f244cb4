"""Runs one task: ``PYTHON start.py JOB``, started by the agent by its path.

``PYTHON start.py --warm FILE`` is a zygote instead (``flow.runtime.warm``).

Only flow itself is made importable, by its location: the directory that holds it may hold the
agent too, and anything else that is not the user's.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder

_ROOT = __file__.rpartition("/flow/runtime/")[0]


class _Bootstrap:
    """Finds ``flow`` beside this file, until ``FlowFinder`` can be imported."""

    @staticmethod
    def find_spec(name: str, *_: object) -> ModuleSpec | None:
        """Asked by the import system (PEP 451)."""
        return PathFinder.find_spec(name, [_ROOT]) if name == "flow" else None


def main() -> None:
    """Run the job and end with its exit code, or be a zygote."""
    if sys.version_info < (3, 10):  # noqa: UP036  the user's Python is not flow's
        sys.exit(f"expected Python 3.10 or later for tasks, got {sys.version.split()[0]}")
    # The script's own directory may come first on sys.path: its modules are not the user's.
    sys.path[:] = [entry for entry in sys.path if entry != f"{_ROOT}/flow/runtime"]
    sys.meta_path.insert(0, _Bootstrap)
    from flow.authoring.parse import FlowFinder  # noqa: PLC0415  findable only now
    from flow.runtime.job import run  # noqa: PLC0415  findable only now

    sys.meta_path[0] = FlowFinder
    # Folders of DAG files are shared by tasks, and compared with what was shipped.
    sys.dont_write_bytecode = True
    if sys.argv[1] == "--warm":
        from flow.runtime.warm import serve  # noqa: PLC0415  a single task needs none of it

        serve(sys.argv[2])
    sys.exit(run(sys.argv[1]))


if __name__ == "__main__":
    main()
