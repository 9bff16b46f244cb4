"""Results on disk until the dispatcher has answered them: one file per token."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from agent.session import sync_directory, write_all_durably
from flow import wire
from flow.errors import MessageError

log = logging.getLogger(__name__)


class Spool:
    """A folder of results. All methods block on the disk: call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, results: Iterable[wire.Finished]) -> dict[int, OSError]:
        """Put *results* on disk; they are safe there on return. What could not be written is
        returned, by token."""
        contents = {self._file(result.token): wire.encode(result) for result in results}
        failed = write_all_durably(contents)
        return {int(file.stem): error for file, error in failed.items()}

    def drop(self, token: int) -> None:
        """Forget an answered result. One that reappears after a crash is answered again."""
        self._file(token).unlink(missing_ok=True)

    def load(self) -> tuple[wire.Finished, ...]:
        """What an earlier process left, by token. Damaged files are set aside under ``.bad``."""
        results = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                message = wire.decode(path.read_bytes())
            except MessageError as error:
                self._set_aside(path, str(error))
                continue
            if isinstance(message, wire.Finished):
                results.append(message)
            else:
                self._set_aside(path, f"it holds a {type(message).__name__}")
        for left in self._folder.glob("*.json.new"):  # a crash before the rename: never sent
            left.unlink()
        sync_directory(self._folder)
        return tuple(sorted(results, key=lambda result: result.token))

    def _set_aside(self, path: Path, reason: str) -> None:
        bad = path.with_suffix(".bad")
        path.replace(bad)
        log.error("spool: %s is no result and was renamed to %s: %s", path, bad.name, reason)

    def _file(self, token: int) -> Path:
        return self._folder / f"{token}.json"
