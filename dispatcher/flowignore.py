"""What of the DAG folder is none of flow's business: neither searched for DAGs nor shipped.

Hidden files and folders, ``__pycache__``, and what ``.flowignore`` at the top of the folder names,
with the patterns of ``.gitignore``. As there, nothing below an ignored folder can be taken back in.
"""

from __future__ import annotations

from pathlib import Path

import pathspec

from flow.errors import DagError

IGNORE_FILE = ".flowignore"
_SKIPPED = "__pycache__"


class Ignored:
    """The rules of one folder."""

    def __init__(self, patterns: str = "") -> None:
        self._patterns = pathspec.GitIgnoreSpec.from_lines(patterns.splitlines())

    @classmethod
    def of(cls, folder: Path) -> Ignored:
        """Read the folder's rules. Raises :class:`~flow.errors.DagError`; blocks."""
        try:
            text = (folder / IGNORE_FILE).read_text(encoding="utf-8")
        except FileNotFoundError:
            text = ""
        except (OSError, UnicodeDecodeError) as error:
            raise DagError(f"{IGNORE_FILE}: expected a readable UTF-8 text, got {error}") from None
        try:
            return cls(text)
        except ValueError as error:
            raise DagError(
                f"{IGNORE_FILE}: expected patterns as in .gitignore, got {error}"
            ) from None

    def leaves_out(self, path: str, *, folder: bool) -> bool:
        """Whether *path*, relative to the DAG folder, is left out; those above it are not."""
        name = path.rpartition("/")[2]
        if name.startswith(".") or name == _SKIPPED:
            return True
        # Looked at for every file, every second; most folders have no rules of their own.
        return bool(self._patterns) and self._patterns.match_file(f"{path}/" if folder else path)
