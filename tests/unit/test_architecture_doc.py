"""docs/architecture.md tells the truth about modules and imports.

Its conventions: a dotted name in backticks that starts with ``flow``, ``dispatcher`` or ``agent``
is a module or something in one, unless it is a name on the broker; and one fenced block, marked
``imports``, has a line ``a -> b, c`` per component, which lists all its imports of the others. A
module belongs to the most specific component that contains it.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import grimp

from flow import topology

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("flow", "dispatcher", "agent")
#: Written in backticks too, but no modules.
OTHER_NAMES = {*topology.EXCHANGES, "flow.toml", "flow.db", "flow.q"}

Arrows = dict[str, set[str]]


@cache
def _text() -> str:
    return (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def _documented_names(text: str) -> set[str]:
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    pattern = rf"`((?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_][A-Za-z0-9_]*)*)`"
    return set(re.findall(pattern, prose)) - OTHER_NAMES


def _documented_arrows(text: str) -> Arrows:
    blocks = re.findall(r"^```imports\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 1, f"expected one block marked imports, got {len(blocks)}"
    arrows: Arrows = {}
    for line in filter(None, map(str.strip, blocks[0].splitlines())):
        source, _, targets = (part.strip() for part in line.partition("->"))
        assert source not in arrows, f"imports block: {source} has two lines"
        arrows[source] = {target.strip() for target in targets.split(",") if target.strip()}
    return arrows


def _component(module: str, components: Iterable[str]) -> str | None:
    owners = [name for name in components if module == name or module.startswith(f"{name}.")]
    return max(owners, key=len, default=None)


def _arrows_between(components: Iterable[str], imports: Mapping[str, Iterable[str]]) -> Arrows:
    """The imports between *components*, given those between modules."""
    names = list(components)
    arrows: Arrows = {name: set() for name in names}
    for module, imported in imports.items():
        source = _component(module, names)
        for target in (_component(other, names) for other in imported):
            if source is not None and target is not None and source != target:
                arrows[source].add(target)
    return arrows


def _module_imports() -> dict[str, set[str]]:
    graph = _graph()
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def _exists(name: str) -> bool:
    """Whether *name* is a module, or an attribute of one."""
    module, _, attribute = name.rpartition(".")
    if not module or importlib.util.find_spec(module) is None:
        return not module and importlib.util.find_spec(name) is not None
    parent = importlib.import_module(module)
    is_module = hasattr(parent, "__path__") and importlib.util.find_spec(name) is not None
    return is_module or hasattr(parent, attribute)


def _resolves(name: str) -> bool:
    try:
        return _exists(name)
    except ModuleNotFoundError:
        # Of three parts or more: the first ones may be a module with a class in it.
        module, _, attribute = name.rpartition(".")
        owner, _, inner = module.rpartition(".")
        return _exists(module) and hasattr(
            getattr(importlib.import_module(owner), inner), attribute
        )


def _lines(arrows: Arrows) -> str:
    return "\n".join(f"{name} -> {', '.join(sorted(arrows[name]))}".rstrip() for name in arrows)


def test_every_name_in_the_architecture_page_exists() -> None:
    names = _documented_names(_text()) | set(_documented_arrows(_text()))
    assert names, "the page names no module"
    assert [name for name in sorted(names) if not _resolves(name)] == []


def test_every_module_belongs_to_a_component_of_the_page() -> None:
    components = _documented_arrows(_text())
    homeless = [name for name in sorted(_graph().modules) if not _component(name, components)]
    assert homeless == []


def test_the_arrows_of_the_page_are_the_imports_of_the_code() -> None:
    documented = _documented_arrows(_text())
    found = _arrows_between(documented, _module_imports())
    assert documented == found, f"the imports block should read:\n{_lines(found)}"


def test_an_arrow_that_nobody_wrote_down_is_found() -> None:
    imports = {"flow.cli.main": {"flow.wire"}, "flow.wire": {"flow.errors"}}
    arrows = _arrows_between(["flow", "flow.cli"], imports)
    assert arrows == {"flow": set(), "flow.cli": {"flow"}}


def test_names_in_code_blocks_and_names_on_the_broker_are_no_modules() -> None:
    text = "`flow.wire` and `flow.tasks`\n```text\n`flow.nonsense`\n```\n"
    assert _documented_names(text) == {"flow.wire"}


def test_a_misspelt_module_does_not_resolve() -> None:
    assert _resolves("flow.wire.Task.version")
    assert _resolves("flow.topology.task_queue")
    assert not _resolves("flow.wires")
    assert not _resolves("flow.wire.Tusk")
    assert not _resolves("flow.wires.Task")
