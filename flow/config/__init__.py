"""Settings: ``flow.toml``, the environment and the command line, read once at the start."""

from __future__ import annotations

from flow.config.changes import Changes, changes
from flow.config.describe import Setting, describe
from flow.config.load import load_config
from flow.config.schema import (
    AGENT_SECTIONS,
    DISPATCHER_SECTIONS,
    SECTIONS,
    AgentSettings,
    BrokerSettings,
    Config,
    CoreSettings,
    DagsSettings,
    DatabaseSettings,
    DispatcherSettings,
    LeaseSettings,
    LogsSettings,
)
from flow.config.secret import SecretUrl

__all__ = [
    "AGENT_SECTIONS",
    "DISPATCHER_SECTIONS",
    "SECTIONS",
    "AgentSettings",
    "BrokerSettings",
    "Changes",
    "Config",
    "CoreSettings",
    "DagsSettings",
    "DatabaseSettings",
    "DispatcherSettings",
    "LeaseSettings",
    "LogsSettings",
    "SecretUrl",
    "Setting",
    "changes",
    "describe",
    "load_config",
]
