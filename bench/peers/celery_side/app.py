"""The Celery app of the benchmark: its configuration, tuned, and its tasks.

Durable as flow is: quorum queues, publisher confirms, a message acked when its task has ended and
given to another worker when the first one dies, results in Postgres. README.md says why each
setting is here.
"""

from __future__ import annotations

import os
import subprocess
import time

from celery import Celery

from bench.fibo import fibo

RUN_VARIABLE = "BENCH_RUN_ID"

app = Celery("bench")
app.conf.update(
    broker_url=os.environ["BENCH_BROKER_URL"],
    result_backend="db+" + os.environ["BENCH_DATABASE_URL"],
    # What flow guarantees, too.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    broker_transport_options={"confirm_publish": True},
    task_default_queue="bench",
    task_default_queue_type=os.environ["BENCH_QUEUE_TYPE"],
    # Tuned for short tasks.
    worker_prefetch_multiplier=16,
    worker_disable_rate_limits=True,
    result_chord_retry_interval=0.1,
    database_engine_options={"pool_pre_ping": False},
    task_send_sent_event=False,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)


@app.task(name="shell")  # type: ignore[untyped-decorator] # Celery has no types
def shell(command: str, run_id: str) -> float:
    """Run *command* in a process of its own; the time at which the task began, as its result."""
    begun = time.time()
    subprocess.run(
        ["/bin/bash", "-c", command], env={**os.environ, RUN_VARIABLE: run_id}, check=True
    )
    return begun


@app.task(name="python")  # type: ignore[untyped-decorator] # Celery has no types
def python(n: int) -> float:
    """Compute fibo(n) in the worker's own process; the time at which the task began."""
    begun = time.time()
    fibo(n)
    return begun
