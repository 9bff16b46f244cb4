"""SIGHUP: the settings are read again, and what can change while tasks run does."""

from __future__ import annotations

import logging
from collections.abc import Callable

from flow.config import AGENT_SECTIONS, Changes, Config, changes
from flow.errors import ConfigError

log = logging.getLogger(__name__)

#: What an agent changes while it runs. Who it is, whom it is connected to and how long its lease
#: lasts are agreed upon with others, or held by the state directory, for the life of the process.
LIVE = frozenset(
    {
        "agent.queues",
        "agent.slots",
        "agent.kill_grace",
        "agent.drain_timeout",
        "agent.claim_resend_interval",
        "agent.log_max_bytes",
        "agent.pass_env",
        "agent.python",
        "agent.python_for",
        "agent.warm",
        "agent.task_memory",
        "agent.task_cpus",
        "agent.task_pids",
        "agent.run_without_limits",
        "xcom.max_bytes",
    }
)


def reread(old: Config, read: Callable[[], Config]) -> Changes | None:
    """What has changed since *old*, or None when the settings are wrong now: the old ones hold,
    and the log says why. What waits for a restart is named in the log as well."""
    try:
        found = changes(old, read(), concerns=AGENT_SECTIONS, live=LIVE)
    except ConfigError as error:
        problems = str(error).splitlines()
    else:
        _tell(found)
        return found
    for problem in problems:
        log.error("settings not reloaded, the old ones hold: %s", problem)
    return None


def _tell(found: Changes) -> None:
    if found.live:
        log.info("settings reloaded: %s changed", ", ".join(found.live))
    if found.restart:
        log.warning("%s changed: that needs a restart", ", ".join(found.restart))
    if not found.live and not found.restart:
        log.info("settings reloaded: nothing has changed")
