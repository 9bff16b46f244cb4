"""A process that does of an agent only what the keeper sees, with a warm task, until it is killed.

``python lone_zygote_agent.py STATE_ID FOLDER`` prints ``ready`` when zygote and task are there.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agent.keeper_client import TaskStarted
from tests.integration.zygote_bench import ZygoteBench


async def main() -> None:
    bench = ZygoteBench(sys.argv[1], root=Path(sys.argv[2]))
    go = bench.root / "go"
    await bench.launch()
    bench.write(f"import os, time; time.sleep(600 if os.path.exists({str(go)!r}) else 0)")
    await bench.heat()
    go.touch()
    await bench.get(TaskStarted, bench.begin())
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
