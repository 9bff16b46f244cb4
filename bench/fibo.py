"""The Python task of the chains that workflow engines are compared by (docs/performance.md)."""

from __future__ import annotations


def fibo(n: int) -> int:
    """The n-th Fibonacci number, by the naive recursion: 177 calls for 10, 11 million for 33."""
    return n if n < 2 else fibo(n - 1) + fibo(n - 2)  # noqa: PLR2004 - the definition
