"""What a broker says of itself to whoever connects."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Greeting:
    """Of one connection that was opened."""

    product: str
    version: str
    """As RabbitMQ writes it, such as ``3.10.8``."""
    heartbeat: int
    """Seconds, as agreed with the broker; 0: none."""
    certificate: bytes | None
    """The broker's, in DER; ``None`` without TLS."""

    @property
    def release(self) -> tuple[int, int] | None:
        """Major and minor number, if they can be read."""
        parts = self.version.split(".")[:2]
        if len(parts) != 2 or not all(part.isdecimal() for part in parts):  # noqa: PLR2004
            return None
        return int(parts[0]), int(parts[1])
