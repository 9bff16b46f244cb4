"""The agent's rules as a pure state machine: no I/O, no clock, no randomness.

``Core.step(event, now)`` takes what happened (:mod:`agent.core.events`) and returns what to do
(:mod:`agent.core.effects`); ``now`` is CLOCK_BOOTTIME in seconds. The simulator and the service
drive the same class.
"""

from __future__ import annotations

from agent.core.machine import Core
from agent.core.settings import Identity, Settings

__all__ = ["Core", "Identity", "Settings"]
