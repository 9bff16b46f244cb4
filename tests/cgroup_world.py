"""A folder for cgroups on this machine, as a service manager would delegate one."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.cgroups import own
from agent.keeper.cgroups import HOME, Cgroup


@contextmanager
def delegated() -> Iterator[Path]:
    """A new cgroup below this process's, marked as delegated, with HOME in it.

    Afterwards it is killed and removed; needs the right to make one, as root has it.
    """
    above = own(Path("/proc/self"))
    assert above is not None, "expected a cgroup file system of version 2 on this machine"
    top = above / f"flow-test-{uuid.uuid4().hex[:8]}"
    top.mkdir()
    os.setxattr(top, "user.delegate", b"1")
    (top / HOME).mkdir()
    try:
        yield top
    finally:
        _remove(top)


def _remove(top: Path) -> None:
    left = Cgroup(str(top))
    end = time.monotonic() + 20
    while left.populated:
        left.kill()
        assert time.monotonic() < end, f"{top} does not die"
        time.sleep(0.01)
    left.remove()
    assert not top.exists()
