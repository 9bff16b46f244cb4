"""How long each part of the run took, told when it is over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Announce *name* and, unless it fails, its seconds."""
    began = time.monotonic()
    print(f"... {name}", flush=True)
    yield
    print(f"    {name}: {time.monotonic() - began:.1f} s", flush=True)
