"""Arguments that name things."""

from __future__ import annotations

import click


def name(value: str) -> str:
    """A name as somebody typed it. Bytes that are no text become U+FFFD: no name holds that, so
    the answer is "unknown", where a database driver would fail to encode them."""
    text = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


dag_argument = click.argument("dag_id", metavar="DAG", type=name)
run_argument = click.argument("run_name", metavar="RUN", type=name)
task_argument = click.argument("task_id", metavar="TASK", type=name)
