"""Output that arrives in pieces: out of order, twice, from the broker and from the store."""

from __future__ import annotations

from collections.abc import Callable


class Assembly:
    """Passes each byte of one try's output on once, in order. Offsets count from its start."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._held: dict[int, bytes] = {}
        self._end: int | None = None
        self.passed = 0
        """Bytes passed on or given up."""

    @property
    def has_gap(self) -> bool:
        """Something has arrived that lies beyond what is missing."""
        return bool(self._held)

    @property
    def complete(self) -> bool:
        """Everything up to the known end is passed on."""
        return self._end is not None and self.passed >= self._end

    def add(self, offset: int, data: bytes) -> None:
        """A piece. Those that touch what was passed on go on at once; others wait."""
        if offset > self.passed:
            if len(data) > len(self._held.get(offset, b"")):
                self._held[offset] = data
            return
        if offset + len(data) > self.passed:
            self._pass(offset, data)
            self._pass_held()

    def ends_at(self, end: int) -> None:
        """The output has no more than *end* bytes."""
        self._end = end

    def give_up_gap(self) -> int:
        """Go on behind what is missing; how many bytes that were."""
        if not self._held:
            return 0
        missing = min(self._held) - self.passed
        self.passed = min(self._held)
        self._pass_held()
        return missing

    def _pass_held(self) -> None:
        for offset in sorted(self._held):
            if offset > self.passed:
                return
            data = self._held.pop(offset)
            if offset + len(data) > self.passed:
                self._pass(offset, data)

    def _pass(self, offset: int, data: bytes) -> None:
        self._write(data[self.passed - offset :])
        self.passed = offset + len(data)
