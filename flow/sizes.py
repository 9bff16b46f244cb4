"""Sizes in bytes as people write them: ``4G`` is 4 * 1024**3, as systemd's MemoryMax= has it."""

from __future__ import annotations

import re

#: Below this not even a shell lives.
MIN_MEMORY = 1024 * 1024
_MAX_MEMORY = 2**62
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGTkmgt]?)i?[Bb]?")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

#: Completes "expected".
MEMORY = f"a size from {MIN_MEMORY >> 20}M, such as '512M' or '4G', or a number of bytes"


def read_memory(value: object) -> int | None:
    """Bytes from a whole number, or from text with K, M, G or T behind it; None when it is no
    memory that a task could be held to."""
    if isinstance(value, str):
        found = _SIZE.fullmatch(value)
        size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        return None
    return size if MIN_MEMORY <= size <= _MAX_MEMORY else None


def shown(size: int) -> str:
    """*size* in its largest unit: ``4G``, ``1.5G``, ``300M``."""
    for unit in "TGMK":
        if size >= _UNITS[unit]:
            return f"{size / _UNITS[unit]:.4g}{unit}"
    return str(size)
