"""``flow-agent`` that dies right after it has written a result to its spool, before it sends it.

Each token once: it leaves a file of the token's name in the folder ``$CHAOS_DIED``, holding the
moment.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from unittest.mock import patch

from agent.spool import Spool
from flow import wire
from flow.cli.agent import main as flow_agent


class DyingSpool(Spool):
    """As its base, but fatal."""

    def write(self, result: wire.Finished) -> None:
        super().write(result)
        flag = Path(os.environ["CHAOS_DIED"]) / str(result.token)
        if not flag.exists():
            flag.write_text(str(time.clock_gettime(time.CLOCK_BOOTTIME)))
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    """Be an agent."""
    with patch("agent.service.Spool", DyingSpool):
        return flow_agent()
