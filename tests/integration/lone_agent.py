"""A process that does of an agent only what the keeper sees, so that tests may kill or stop it.

``python lone_agent.py JSON`` with ``state_id``, ``tasks`` (argv lists), ``keep`` (their indices)
and ``lease`` (seconds until the deadline, or null). Prints each event, then waits for ever.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agent.keeper_client import Keeper, KeeperEvent, StartTask


def show(event: KeeperEvent) -> None:
    print(event, flush=True)


async def main() -> None:
    wanted = json.loads(sys.argv[1])
    keeper = await Keeper.launch(state_id=wanted["state_id"], session=1, on_event=show)
    print("keeper", keeper.pid, flush=True)
    for token, argv in enumerate(wanted["tasks"]):
        keeper.start(
            StartTask(
                token=token,
                argv=argv,
                env={"PATH": os.defpath},
                cwd="/",
                output_fd=os.open("/dev/null", os.O_WRONLY),
                keep=token in wanted["keep"],
            )
        )
    if wanted["lease"] is not None:
        keeper.set_deadline(time.clock_gettime(time.CLOCK_BOOTTIME) + wanted["lease"])
    await asyncio.Event().wait()


asyncio.run(main())
