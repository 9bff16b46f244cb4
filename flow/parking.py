"""Where messages go that nobody can read: kept for an operator, never requeued in a loop."""

from __future__ import annotations

import json
import logging
from pathlib import Path

log = logging.getLogger("flow.parking")


class Parking:
    """A folder of at most *limit* parked messages; beyond that they are only logged."""

    def __init__(self, folder: Path, *, limit: int = 100) -> None:
        self._folder = folder
        self._limit = limit

    def park(self, body: bytes, *, key: str, reason: str) -> None:
        """Keep *body* (its first 64 KiB) with the reason, and say so in the log."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            number = sum(1 for _ in self._folder.iterdir())
            if number < self._limit:
                text = body[:65536].decode("utf-8", "replace")
                kept = json.dumps({"key": key, "reason": reason, "body": text}, indent=1)
                (self._folder / f"{number + 1:04d}.json").write_text(kept)
        except OSError as error:
            log.warning("cannot keep an unreadable message in %s: %s", self._folder, error)
        log.warning("parked a message with key %s in %s: %s", key, self._folder, reason)
