"""Cron in a time zone: which moments its local times are, where clocks are put forward or back.

The rule is that of Vixie's cron (cron(8)), written down for users in docs/schedules.md: a time of
day that the clocks skip happens at the first moment after the gap, one that comes twice happens
once, the first time; a pace (a wildcard, step or range in minute or hour) follows the clock on the
wall through all that really passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from flow.schedules.cron import Cron

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class ZonedCron:
    """*cron* by the clocks of *zone*. Moments are aware and in UTC, exact to the second."""

    cron: Cron
    zone: tzinfo

    def after(self, moment: datetime) -> datetime | None:
        """The first tick later than *moment*."""
        wall = self._wall(moment)
        fold = self._fold_around(wall)
        best: datetime | None = None
        # Within the first pass of a fold, earlier local times are still to come, a second time.
        for tick in self.cron.forward(fold[0] if fold and not wall.fold else wall):
            in_fold = fold is not None and tick < fold[1]
            if best is None or in_fold:
                best = _better(best, [at for at in self._moments(tick) if at > moment], min)
            if best is not None and not in_fold:
                break
        return best

    def at_or_before(self, moment: datetime) -> datetime | None:
        """The last tick not later than *moment*."""
        wall = self._wall(moment)
        fold = self._fold_around(wall)
        best: datetime | None = None
        # Within the second pass of a fold, later local times have been already, a first time.
        for tick in self.cron.backward(fold[1] if fold and wall.fold else wall):
            in_fold = fold is not None and tick >= fold[0]
            if best is None or in_fold:
                best = _better(best, [at for at in self._moments(tick) if at <= moment], max)
            if best is not None and not in_fold:
                break
        return best

    def _moments(self, tick: datetime) -> list[datetime]:
        """When a local time is due: once, or never, or twice."""
        first, second = self._readings(tick)
        if first < second:  # the clocks were put back: it comes twice
            return [first] if self.cron.at_fixed_times else [first, second]
        if first > second:  # they were put forward: it never comes
            return [self._change(second, first)] if self.cron.at_fixed_times else []
        return [first]

    def _wall(self, moment: datetime) -> datetime:
        return moment.astimezone(self.zone).replace(tzinfo=None)

    def _readings(self, wall: datetime) -> tuple[datetime, datetime]:
        """Both readings of a local time (PEP 495): they differ where clocks change."""
        first, second = (wall.replace(tzinfo=self.zone, fold=fold) for fold in (0, 1))
        return first.astimezone(UTC), second.astimezone(UTC)

    def _fold_around(self, wall: datetime) -> tuple[datetime, datetime] | None:
        """The local times that come twice around *wall*, from the first to behind the last."""
        first, second = self._readings(wall)
        if first >= second:
            return None
        change = self._change(first, second)
        begin = self._wall(change)
        return begin.replace(fold=0), begin.replace(fold=0) + (second - first)

    def _change(self, low: datetime, high: datetime) -> datetime:
        """The one moment after *low*, up to *high*, at which the clocks change."""
        low, before = low.replace(microsecond=0), low.astimezone(self.zone).utcoffset()
        high = high.replace(microsecond=0)
        while high - low > _SECOND:
            middle = low + (high - low) // 2 // _SECOND * _SECOND
            if middle.astimezone(self.zone).utcoffset() == before:
                low = middle
            else:
                high = middle
        return high


def _better(
    best: datetime | None, found: list[datetime], choose: Callable[[list[datetime]], datetime]
) -> datetime | None:
    candidates = found if best is None else [best, *found]
    return choose(candidates) if candidates else None
