"""Between the core's "start" and the runner: a task waits here for its bundle.

Its slot is taken and heartbeats list its token meanwhile. When the bundle has come, the core is
asked whether the task may still start: only it knows whether the lease holds. With a bundle that is
here already, a start costs one look into a dictionary.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.cache import CannotFetch, CodeCache
from agent.core import events as on
from agent.fetching import Fetcher
from agent.runner import Runner, Spawn
from flow.wire import Grant, Task

#: Bundles without a task that are kept at hand: what runs next is mostly what ran last.
IDLE = 2


@dataclass(slots=True)
class _Ready:
    """A bundle that this process has found whole. ``pin`` keeps it in the cache."""

    folder: Path
    pin: int
    users: int = 0


class Starter:
    """Starts, kills and forgets tasks. What happens to them goes to *post*."""

    def __init__(
        self,
        *,
        runner: Runner,
        cache: CodeCache,
        fetcher: Fetcher,
        post: Callable[[on.Event], None],
        spawn: Spawn,
        wall: Callable[[], float],
    ) -> None:
        self._runner = runner
        self._cache = cache
        self._fetcher = fetcher
        self._post = post
        self._spawn = spawn
        self._wall = wall
        self._ready: dict[str, _Ready] = {}
        """In the order of their last use."""
        self._waiting: dict[int, tuple[Task, Grant]] = {}
        self._fetches: dict[str, asyncio.Task[None]] = {}

    def start(self, task: Task, grant: Grant, gpus: tuple[str, ...] = ()) -> None:
        """Start the task now, or fetch its bundle: then ``Ready`` follows, or ``ProcessEnded``."""
        if task.bundle is None or task.operator == "empty":
            self._runner.start(task, grant, gpus=gpus)
            return
        ready = self._ready.pop(task.bundle, None)
        if ready is None:
            self._waiting[grant.token] = (task, grant)
            if task.bundle not in self._fetches:
                fetch = asyncio.ensure_future(self._fetch(task.bundle))
                self._fetches[task.bundle] = fetch
                self._spawn(self._make_ready(task.bundle, fetch))
            return
        self._ready[task.bundle] = ready
        ready.users += 1
        self._runner.start(task, grant, ready.folder, lambda: self._release(ready), gpus=gpus)

    def kill(self, token: int, grace: float, reason: str) -> None:
        """End the task, whether it runs or still waits."""
        if self._waiting.pop(token, None) is None:
            self._runner.kill(token, grace, reason)
            return
        now = self._wall()
        self._post(on.ProcessEnded(token, now, now, signal=signal.SIGTERM, killed=reason))
        self._cancel_unwanted()

    def forget(self) -> None:
        """The session is over: what waits does not start. Those that outlive a session
        (``on_agent_lost="wait"``) are given back: there is nothing of them to be kept."""
        waiting, self._waiting = self._waiting, {}
        self._cancel_unwanted()
        now = self._wall()
        for token in waiting:
            reason = "the session ended while the task waited for its bundle"
            self._post(on.ProcessEnded(token, now, now, error=reason, fault=True))

    def close(self) -> None:
        """Nothing more is started."""
        self._waiting.clear()
        self._cancel_unwanted()

    # -- bundles -------------------------------------------------------------------------------

    async def _make_ready(self, bundle: str, fetch: asyncio.Task[None]) -> None:
        try:
            await asyncio.wait({fetch})
        finally:
            fetch.cancel()
        if fetch.cancelled():
            return
        self._fetches.pop(bundle, None)
        error = fetch.exception()
        if error is None:
            for token in self._of(bundle):
                del self._waiting[token]
                self._post(on.Ready(token))
        elif isinstance(error, (CannotFetch, OSError)):
            for token in self._of(bundle):
                self._runner.refuse(*self._waiting.pop(token), error)
        else:
            raise error

    async def _fetch(self, bundle: str) -> None:
        pin = await asyncio.to_thread(self._cache.pin, bundle)
        try:
            folder = await self._fetcher.fetch(bundle)
        except BaseException:
            os.close(pin)
            raise
        self._ready[bundle] = _Ready(folder, pin)
        self._drop_idle()

    def _of(self, bundle: str) -> list[int]:
        return [token for token, (task, _) in self._waiting.items() if task.bundle == bundle]

    def _cancel_unwanted(self) -> None:
        for bundle in list(self._fetches):
            if not self._of(bundle):
                self._fetches.pop(bundle).cancel()

    def _release(self, ready: _Ready) -> None:
        ready.users -= 1
        self._drop_idle()

    def _drop_idle(self) -> None:
        idle = [bundle for bundle, ready in self._ready.items() if ready.users == 0]
        for bundle in idle[: max(0, len(idle) - IDLE)]:
            os.close(self._ready.pop(bundle).pin)
