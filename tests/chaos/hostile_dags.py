"""DAG files that a dispatcher must refuse by name and survive: what each does, and what is said."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

#: What a file leaves running if it can; nobody else sleeps for so long.
LEFT_BEHIND = "98765.4321"

_FLOW = "from flow import DAG, BashOperator\n"


class Hostile(NamedTuple):
    """One file."""

    text: str | bytes
    said: str
    """A part of why it is refused."""


#: By name, without ``.py``.
FILES: Mapping[str, Hostile] = {
    "endless": Hostile(f"{_FLOW}while True: pass\n", "expected a file that runs within"),
    "sleeps": Hostile(
        f"{_FLOW}import time\ntime.sleep(1000)\n", "expected a file that runs within"
    ),
    "forks": Hostile(
        f"{_FLOW}import os, time\n"
        "for _ in range(30):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        f"        os.execlp('sleep', 'sleep', '{LEFT_BEHIND}')\n"
        "time.sleep(1000)\n",
        "expected a file that runs within",
    ),
    "threads": Hostile(
        f"{_FLOW}import threading\n"
        "for _ in range(20):\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
        "threading.Event().wait()\n",
        "expected a file that runs within",
    ),
    "deaf": Hostile(
        f"{_FLOW}import signal, time\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n"
        "time.sleep(1000)\n",
        "expected a file that runs within",
    ),
    "exits": Hostile(f"{_FLOW}import sys\nsys.exit(0)\n", "got sys.exit(0)"),
    "leaves": Hostile(f"{_FLOW}import os\nos._exit(0)\n", "its process ended with exit code 0"),
    "kills_itself": Hostile(f"{_FLOW}import os\nos.kill(0, 9)\n", "killed by SIGKILL"),
    "kills_its_reader": Hostile(f"{_FLOW}import os\nos.kill(os.getppid(), 9)\n", ""),
    "allocates": Hostile(f"{_FLOW}x = bytearray(64 * 2**30)\n", "MemoryError"),
    "prints": Hostile(
        f"{_FLOW}for _ in range(2000):\n    print('x' * 10000)\n1 / 0\n",
        "ZeroDivisionError",
    ),
    "recurses": Hostile(f"{_FLOW}def f(): f()\nf()\n", "RecursionError"),
    "overflows": Hostile(
        f"{_FLOW}import sys\nsys.setrecursionlimit(10**9)\n"
        "class A:\n    def __getattr__(self, name): return getattr(self, name)\nA().x\n",
        "expected a file that",
    ),
    "not_utf8": Hostile(b"# flow DAG\n# caf\xe9\n", "expected UTF-8 text"),
    "nul": Hostile(b"from flow import DAG\nDAG('nul\0')\n", ""),
    "ten_megabytes": Hostile("# flow DAG\n" + "#" * 10 * 2**20, "expected at most"),
    "itself": Hostile(f"from itself import later\n{_FLOW}", "itself"),
    "closes": Hostile(f"{_FLOW}import os\nos.closerange(0, 4096)\n1 / 0\n", "expected a file that"),
    "patches": Hostile(
        f"{_FLOW}import builtins, json, sys\njson.dumps = None\nsys.modules.clear()\n"
        "builtins.len = None\nDAG('patches')\n",
        "",
    ),
    "raises": Hostile(
        f"{_FLOW}class Evil(BaseException):\n    def __str__(self): raise self\nraise Evil\n",
        "Evil",
    ),
    "cycle": Hostile(
        f"{_FLOW}with DAG('cycle'):\n"
        "    a = BashOperator(task_id='a', bash_command='true')\n"
        "    b = BashOperator(task_id='b', bash_command='true')\n"
        "    a >> b >> a\n",
        "cycle",
    ),
    "twins": Hostile(
        f"{_FLOW}with DAG('twins'):\n"
        "    BashOperator(task_id='a', bash_command='true')\n"
        "    BashOperator(task_id='a', bash_command='true')\n",
        "'a'",
    ),
    "steals": Hostile(f"{_FLOW}DAG('good')\n", "expected a dag_id used once"),
    "snoops": Hostile(f"{_FLOW}import os\nDAG(os.environ['FLOW_DATABASE_URL'])\n", "KeyError"),
    "too_large": Hostile(
        f"{_FLOW}with DAG('too_large'):\n"
        "    BashOperator(task_id='a', bash_command='x' * 200 * 2**20)\n",
        "",
    ),
    "surrogate": Hostile(f"{_FLOW}DAG('\\ud800')\n", ""),
}


def write_files(folder: Path) -> None:
    """All of them, and entries of the folder that are no files at all."""
    for name, file in FILES.items():
        data = file.text.encode() if isinstance(file.text, str) else file.text
        (folder / f"{name}.py").write_bytes(data)
    (folder / "loop.py").symlink_to("loop.py")
    (folder / "circle").symlink_to(".")
    os.mkfifo(folder / "fifo.py")


def remove_files(folder: Path) -> None:
    """What :func:`write_files` has made."""
    for name in (*FILES, "loop", "fifo"):
        (folder / f"{name}.py").unlink()
    (folder / "circle").unlink()


def missing(errors: Mapping[str, str]) -> list[str]:
    """The files that *errors* (text by file) does not refuse, and those it says odd things of."""
    problems = []
    for name, file in FILES.items():
        said = errors.get(f"{name}.py")
        if said is None:
            problems.append(f"{name}.py is not refused")
        elif file.said not in said or f"{name}.py" not in said:
            problems.append(f"{name}.py: expected {file.said!r}, got {said!r}")
    return problems
