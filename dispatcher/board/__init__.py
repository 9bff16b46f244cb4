"""``flow board``: what runs, where it waits and what went wrong, on one screen."""

from __future__ import annotations
