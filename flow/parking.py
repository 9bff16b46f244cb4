"""Messages that nobody can read, set aside for a person to look at, never requeued in a loop."""

from __future__ import annotations

import json
import logging
from pathlib import Path

#: Files kept; the oldest make room.
KEEP = 100
#: Bytes of a body that are kept.
KEEP_BYTES = 64 * 1024

log = logging.getLogger("flow.parking")


class Parking:
    """A bounded folder of unreadable messages."""

    def __init__(self, folder: Path, keep: int = KEEP) -> None:
        self._folder = folder
        self._keep = keep
        self._last = max((int(path.stem) for path in self._files()), default=0)

    def park(self, body: bytes, *, key: str, reason: str) -> None:
        """Write the message that came under *key* down with *reason*, and say so in the log.

        A disk that takes no more does not stop anybody: then the log has to do.
        """
        self._last += 1
        path = self._folder / f"{self._last:06d}.json"
        try:
            self._write(path, body, key, reason)
        except OSError as error:
            log.warning("unreadable message with key %s: %s; not kept: %s", key, reason, error)
        else:
            log.warning("unreadable message with key %s is parked in %s: %s", key, path, reason)

    def _write(self, path: Path, body: bytes, key: str, reason: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        content = {
            "key": key,
            "reason": reason,
            "bytes": len(body),
            "body": body[:KEEP_BYTES].decode(errors="replace"),
        }
        path.write_text(json.dumps(content, indent=1))
        for old in self._files()[: -self._keep]:
            old.unlink()

    def _files(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.json") if path.stem.isdigit())
