"""The DAGs that the nodes run. Each start of a task is a line in its node's ledger."""

from __future__ import annotations

LEDGER = "var/lib/flow/ledger"

_FILE = """\
from flow import DAG, BashOperator

START = 'echo "$(date +%s.%N) start {{name}}" >> /{ledger}; '
END = '; echo "$(date +%s.%N) end {{name}}" >> /{ledger}'


def work(name, queue, seconds):
    command = START.format(name=name) + f"sleep {{seconds}}" + END.format(name=name)
    BashOperator(task_id=name, queue=queue, bash_command=command)


with DAG("short"):
    work("short", "gpu", 0.1)
with DAG("long"):
    work("long", "gpu", 8)
with DAG("load", max_active_tasks=200):
    for number in range({load}):
        work(f"g{{number}}", "gpu", 2)
    for number in range({load} // 4):
        work(f"c{{number}}", "cpu", 2)
"""


def text(load: int) -> str:
    """The DAG file; its DAG `load` has *load* tasks of 2 s on the queue gpu and some on cpu."""
    return _FILE.format(ledger=LEDGER, load=load)
