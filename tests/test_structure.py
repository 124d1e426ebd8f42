"""The tree's own rules: no import cycles, packages of few modules, a docstring for each package."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_MODULES = 15
"""Loose modules of a package, beyond which it gets packages of its own."""


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {_name(path): path for top in ("workbench", "tui") for path in (ROOT / top).rglob("*.py")}


def _imports(name: str) -> set[str]:
    """Return the modules of the project that a module imports, in functions and for types too."""
    found = set[str]()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{one.name}" for one in node.names}
            # `from package import module` depends on the module, not on the package's __init__.
            found |= {one if one in FILES else node.module for one in whole}
        elif isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
    return (found & FILES.keys()) - {name}


def test_no_module_imports_itself_by_way_of_others() -> None:
    order = TopologicalSorter({name: _imports(name) for name in FILES}).static_order()
    assert len(list(order)) == len(FILES)


def test_no_package_holds_more_loose_modules_than_a_reader_can_scan() -> None:
    folders = {path.parent for path in FILES.values()}
    loose = {
        folder.relative_to(ROOT).as_posix(): [
            path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")
        ]
        for folder in folders
    }
    assert not {folder: names for folder, names in loose.items() if len(names) > MOST_MODULES}


def test_each_package_says_what_is_inside() -> None:
    packages = [path for path in FILES.values() if path.name == "__init__.py"]
    docs = {path: ast.get_docstring(ast.parse(path.read_text())) for path in packages}
    short = [str(path) for path, doc in docs.items() if doc is None or len(doc.splitlines()) < 3]
    assert not short
