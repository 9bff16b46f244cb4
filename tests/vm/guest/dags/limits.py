"""Tasks that ask for limits and then do not keep to them."""

from __future__ import annotations

from datetime import timedelta

from flow import DAG, BashOperator

#: Forks for ever, and so does everything that it forks; none of them minds a SIGTERM.
BOMB = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.05)
"""
#: Two seconds' worth of CPU time; says how long that took.
BURN = """
import time
begin, end = time.monotonic(), time.process_time() + 2
while time.process_time() < end:
    pass
print(f"2 s of CPU time took {time.monotonic() - begin:.1f} s")
"""
#: Out of the task's process tree, session and environment; minds no SIGTERM. "$0" is its name.
ESCAPE = """
env -i setsid sh -c 'trap "" TERM HUP; (while :; do sleep 1; done) & exit' &
sleep 1
"""

with DAG("limits"):
    BashOperator(
        task_id="over_memory",
        bash_command="exec python3 -c 'bytearray(300 << 20)'",
        memory="64M",
    )
    BashOperator(
        task_id="child_over_memory",
        bash_command="python3 -c 'bytearray(300 << 20)'; echo survived; sleep 1000",
        memory="64M",
    )
    BashOperator(
        task_id="within_memory",
        bash_command="exec python3 -c 'bytearray(100 << 20)'",
        memory="200M",
    )
    BashOperator(task_id="half_a_cpu", bash_command=f"exec python3 -c '{BURN}'", cpus=0.5)
    BashOperator(
        task_id="fork_bomb",
        bash_command=f"exec python3 -c '{BOMB}'",
        pids=30,
        execution_timeout=timedelta(seconds=12),
    )
    BashOperator(task_id="escape", bash_command=ESCAPE)

with DAG("left"):
    BashOperator(
        task_id="waits",
        bash_command=f"{ESCAPE}\nwhile :; do sleep 1; done",
        memory="100M",
        cpus=1,
        pids=100,
    )
