"""Text of others on a terminal: shown, never obeyed."""

from __future__ import annotations

import re

#: Control characters, line separators, and what turns the direction of writing.
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""*text* on one line, with everything that steers a terminal spelled out, as in ``\x1b``."""
    return _STEERING.sub(lambda found: repr(found[0])[1:-1], text)
