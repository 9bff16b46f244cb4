"""The end of a forked task: what the end of an interpreter does, without its last part.

Python tears down every module at the end, which in a fork means a copy of nearly all the memory
that it shares: five times what the rest of a small task costs. The rest of it is done here: threads
are waited for, exit handlers run, what the user's modules hold is let go, output is flushed.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
from types import ModuleType
from typing import NoReturn

_FLUSH_FAILED = 120
"""As Python's own exit code then."""


def leave(code: int, folder: str) -> NoReturn:
    """End this process with *code*; files of the user's own modules are below *folder*."""
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()  # noqa: SLF001  as multiprocessing does
    atexit._run_exitfuncs()  # noqa: SLF001  likewise
    below = folder + os.sep
    for module in list(sys.modules.values()):
        # Anything may stand there, and do anything when it is looked at.
        if isinstance(module, ModuleType) and str(vars(module).get("__file__")).startswith(below):
            # So that a file which nobody closed gets its last bytes.
            vars(module).clear()
    gc.collect()
    failed = False
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # None, or the user's own
            try:
                if not stream.closed:
                    stream.flush()
            except (OSError, ValueError):
                failed = True
    os._exit(_FLUSH_FAILED if failed else code)
