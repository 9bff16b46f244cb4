"""``flow-agent`` that dies right after it has written a result to its spool, before it sends it.

Each token once: it leaves a file of the token's name in the folder ``$CHAOS_DIED``, holding the
moment.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from unittest.mock import patch

from agent.spool import Spool
from flow import wire
from flow.cli.agent import main as flow_agent


class DyingSpool(Spool):
    """As its base, but fatal."""

    def write(self, results: Iterable[wire.Finished]) -> dict[int, OSError]:
        written = tuple(results)
        failed = super().write(written)
        new = [Path(os.environ["CHAOS_DIED"]) / str(result.token) for result in written]
        new = [flag for flag in new if not flag.exists()]
        for flag in new:
            flag.write_text(str(time.clock_gettime(time.CLOCK_BOOTTIME)))
        if new:
            os.kill(os.getpid(), signal.SIGKILL)
        return failed


def main() -> int:
    """Be an agent."""
    with patch("agent.service.Spool", DyingSpool):
        return flow_agent()
