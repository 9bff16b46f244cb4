"""Entry point of the keeper process, run as a file: ``python -I -S .../agent/keeper/__main__.py``.

-S leaves out site-packages, and with it half of the start; so the folder that holds the package
``agent`` is added here, last, where it can hide nothing of the standard library.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path.append(os.path.abspath(__file__).rsplit(os.sep, 3)[0])  # noqa: PTH100 -- 2 MB
    from agent.keeper.loop import main

    main(sys.argv[1:])
