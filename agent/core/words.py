"""The messages that an agent says of itself."""

from __future__ import annotations

from agent.core.settings import Identity, Settings
from agent.core.work import Work
from flow import wire


def hello(
    identity: Identity,
    settings: Settings,
    work: Work,
    session: int,
    now: float,
    *,
    suspended: str = "",
    terms: wire.Terms | None = None,
) -> wire.Hello:
    """First words of *session* on a connection: tokens of older sessions end, except those whose
    result will follow and those that still run."""
    kept = [token for token, run in work.running.items() if run.session != session]
    return wire.Hello(
        agent=settings.name,
        session=session,
        home_id=identity.home_id,
        boot_id=identity.boot_id,
        uptime=now,
        incarnation=identity.incarnation,
        queues=settings.queues,
        slots=settings.slots,
        cores=identity.cores,
        memory=identity.memory,
        gpus=tuple(device.label for device in settings.gpus),
        gpu_share=settings.gpu_share,
        lease=settings.lease,
        spooled=tuple(work.results),
        kept=tuple(kept),
        software=identity.software,
        limits=identity.limits,
        suspended=suspended,
        terms=terms,
    )


def heartbeat(
    settings: Settings,
    work: Work,
    session: int,
    *,
    suspended: str = "",
    terms: wire.Terms | None = None,
) -> wire.Heartbeat:
    """Renews the lease. Its load is measured by whoever sends it."""
    return wire.Heartbeat(
        agent=settings.name,
        session=session,
        lease=settings.lease,
        tokens=tuple(work.running),
        slots=settings.slots,
        free_gpus=work.free_gpus,
        suspended=suspended,
        terms=terms,
    )
