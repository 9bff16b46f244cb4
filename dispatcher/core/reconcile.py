"""Repair: a queued row whose message is nowhere is published again.

A message may be lost with its queue, its delivery limit or the broker's disk. The broker is asked
how many messages wait; rows are believed lost when it showed none twice, with a marker's round trip
in between, so that claims sent in the meantime have been read. A wrong guess costs a duplicate
message, which is denied.
"""

from __future__ import annotations

from dispatcher.core.placing import publication
from dispatcher.core.queues import Missing
from dispatcher.core.state import Effects, State


def observed(state: State, name: str, ready: int, out: Effects) -> None:
    """The broker shows *ready* messages waiting in queue *name*."""
    queue = state.queue(name)
    if ready > 0:
        queue.missing.clear()
        return
    for task_pk, missing in list(queue.missing.items()):
        if missing.read_up:
            del queue.missing[task_pk]
            task = state.tasks[task_pk]
            if task.try_number == missing.try_number:
                out.publications.append(publication(state, task))
                out.notes.append(f"queue {name}: published task instance {task_pk} again")
    if unseen := queue.queued.keys() - queue.missing.keys():
        marker = state.next_marker()
        out.markers.append(marker)
        for task_pk in unseen:
            queue.missing[task_pk] = Missing(state.tasks[task_pk].try_number, marker)


def marker_returned(state: State, number: int) -> None:
    """Claims sent before the marker have been read: rows still missing stay under suspicion."""
    for queue in state.queues.values():
        for missing in queue.missing.values():
            if missing.marker == number:
                missing.read_up = True
