"""Whether this node's disk takes what is written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from agent.session import write_durably

#: What a disk says that takes nothing, whatever is written: full, over quota, read-only, broken.
FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
#: Of one try: more than a file system finds room for in its last half-filled block.
PROBE_BYTES = 64 * 1024


def is_fault(error: BaseException) -> bool:
    """Whether *error* is the disk's, and nothing that another path or right would mend."""
    return isinstance(error, OSError) and error.errno in FAULTS


def told(error: OSError) -> str:
    """What is said of *error*: why, and of which file."""
    where = f": {os.fsdecode(error.filename)}" if error.filename else ""
    text = f"{error.strerror or type(error).__name__}{where}"
    return text.encode(errors="replace").decode()  # it goes into messages, which are UTF-8


def probe(folders: Iterable[Path]) -> str:
    """Try to write in each of *folders*, fsynced; what went wrong, or ``""``. Blocks.

    What was written is removed again, also when there was room for a part of it only.
    """
    for folder in folders:
        path = folder / "probe"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(path, os.urandom(PROBE_BYTES))
            path.unlink()
        except OSError as error:
            return told(error)
    return ""
