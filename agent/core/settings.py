"""What an agent's rules need to know about it."""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.devices import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Times in seconds. ``Reconfigured`` says which of them may change while the agent runs."""

    name: str
    queues: tuple[str, ...]
    slots: int
    gpus: tuple[Device, ...] = ()
    gpu_share: int = 1
    """How many tasks may have one of them at the same time."""
    heartbeat_interval: float = 5.0
    lease: float = 60.0
    """L: how long the dispatcher counts on this agent after it heard it."""
    margin: float = 5.0
    """M: how much earlier the agent itself gives up."""
    grace: float = 15.0
    """G: how much later the dispatcher takes over."""
    kill_grace: float = 5.0
    drain_timeout: float = 3600.0
    claim_interval: float = 2.0
    started_after: float = 0.5
    """How long a task runs before it is told of: the result of a shorter one says it all."""
    result_interval: float = 3.0
    hello_interval: float = 1.0
    """Between hellos that came back, and the least time between two that the dispatcher wanted."""
    ended_pause: float = 3.0
    """Before the hello that follows a session which the dispatcher ended."""
    probe_interval: float = 3.0
    """Between two tries of a disk that took nothing."""
    answer_wait: float = 10.0
    """How long a drained agent waits for answers; what is spooled survives it."""
    hurried_wait: float = 2.0
    """The same after the second signal, and the wait for the goodbye's confirm."""

    @property
    def trusted(self) -> float:
        """L - M: how long after sending a confirmed heartbeat the agent may go on."""
        return self.lease - self.margin


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who says hello. Fixed for the life of the process."""

    home_id: str
    boot_id: str
    incarnation: str
    software: str
    cores: int = 0
    memory: int = 0
    """As in :class:`flow.wire.Hello`, both."""
    limits: bool = False
    """As in :class:`flow.wire.Hello`."""
