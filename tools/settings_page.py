"""Write the tables of docs/configuration.md from the schema: ``python -m tools.settings_page``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flow.config.schema import SECTION_CLASSES, SPECS, Derived, Spec

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
MARKER = "<!-- From here on written by: python -m tools.settings_page -->"


def write(page: str) -> str:
    """*page* with everything after the marker written anew."""
    head, _, _ = page.partition(MARKER)
    return "\n".join([head + MARKER, "", *_tables()])


def main() -> None:
    """Rewrite the page in place."""
    PAGE.write_text(write(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def _tables() -> Iterator[str]:
    for section, doc in (("", ""), *((name, cls.__doc__) for name, cls in SECTION_CLASSES.items())):
        yield f"### `[{section}]`" if section else "### Outside of sections"
        yield ""
        if doc:
            yield f"{doc}\n"
        yield "| key | default | must be | meaning | variable |"
        yield "| --- | --- | --- | --- | --- |"
        for spec in SPECS:
            if spec.section == section:
                cells = (f"`{spec.key}`", _default(spec), spec.kind.expected, spec.doc)
                yield f"| {' | '.join(cells)} | `{spec.variable}` |"
        yield ""


def _default(spec: Spec) -> str:
    match spec.default:
        case Derived(shown=shown):
            return shown
        case None:
            return "none"
        case ():
            return "`[]`"
        case tuple() as items:
            return f"`[{', '.join(repr(item) for item in items)}]`"
        case float() as number:
            return f"`{number:g}`"
        case other:
            return f"`{other}`"


if __name__ == "__main__":
    main()
