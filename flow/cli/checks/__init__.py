"""What ``flow doctor`` looks at: a function for each thing, which says how it found it."""

from __future__ import annotations
