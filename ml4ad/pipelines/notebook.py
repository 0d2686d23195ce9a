"""Notebooks as they are written: where they lie, and which parameters they declare.

A parameter is a line ``name: type = value  # meaning`` of the cell that is tagged ``parameters``.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import io
import json
import math
import sys
import tokenize
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

#: Types that a parameter may have, and what a command line may give for it.
TYPES: Mapping[str, str] = {
    "int": "a whole number",
    "float": "a finite number",
    "str": "text",
    "bool": "true or false",
    "list[int]": "whole numbers with commas between",
    "list[float]": "numbers with commas between",
    "list[str]": "texts with commas between, or a JSON list",
}
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Parameter:
    """One declared parameter of a notebook."""

    name: str
    type: str
    default: Any
    meaning: str

    def check(self, value: object) -> Any:
        """The value as the notebook gets it; ValueError if it is not of the declared type."""
        if self.type.startswith("list["):
            kind = self.type.removeprefix("list[").removesuffix("]")
            if isinstance(value, list | tuple) and all(_fits(kind, item) for item in value):
                return [float(v) for v in value] if kind == "float" else list(value)
        elif _fits(self.type, value):
            return float(value) if self.type == "float" else value  # type: ignore[arg-type]
        raise ValueError(
            f"parameter {self.name} = {value!r}: want {self.type} ({TYPES[self.type]})"
        )

    def parse(self, text: str) -> Any:
        """The value that ``text`` of a command line stands for; ValueError as `check`.

        >>> Parameter("runs", "list[int]", [], "").parse("355862, 355863")
        [355862, 355863]
        """
        try:
            if not self.type.startswith("list["):
                return self.check(_parsed(self.type, text))
            kind = self.type.removeprefix("list[").removesuffix("]")
            if text.lstrip().startswith("["):
                return self.check(json.loads(text))
            items = [item.strip() for item in text.split(",")] if text.strip() else []
            return self.check([_parsed(kind, item) for item in items])
        except ValueError as wrong:
            raise ValueError(
                f"parameter {self.name} = {text!r}: want {self.type} ({TYPES[self.type]})"
            ) from wrong


@dataclass(frozen=True)
class Notebook:
    """A notebook file: ``content`` is nbformat's, ``parameters`` are those it declares."""

    path: Path
    content: Any
    parameters: Mapping[str, Parameter]

    @property
    def name(self) -> str:
        """File name without ending."""
        return self.path.stem

    @property
    def digest(self) -> str:
        """SHA-256 of what the cells say, in hexadecimal; outputs do not count."""
        cells = [[cell.cell_type, cell.source] for cell in self.content.cells]
        return hashlib.sha256(json.dumps(cells).encode()).hexdigest()

    @property
    def n_cells(self) -> int:
        """Number of code cells that hold something."""
        return sum(is_run(cell) for cell in self.content.cells)

    def parse(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """Values that texts of a command line stand for; ValueError if not declared so."""
        self._refuse_unknown(texts)
        return {name: self.parameters[name].parse(text) for name, text in texts.items()}

    def check(self, given: Mapping[str, object]) -> dict[str, Any]:
        """Values as the notebook gets them; ValueError, with all that it declares, if not so."""
        self._refuse_unknown(given)
        return {name: self.parameters[name].check(value) for name, value in given.items()}

    def defaults(self) -> dict[str, Any]:
        """What the notebook's own parameters are."""
        return {name: parameter.default for name, parameter in self.parameters.items()}

    def _refuse_unknown(self, given: Mapping[str, object]) -> None:
        unknown = [name for name in given if name not in self.parameters]
        if unknown:
            near = difflib.get_close_matches(unknown[0], self.parameters, 1)
            hint = f" (near: {near[0]})" if near else ""
            known = ", ".join(f"{p.name} ({p.type})" for p in self.parameters.values())
            raise ValueError(
                f"{self.name} has no parameter {unknown[0]!r}{hint}; there: {known or 'none'}"
            )


def folders() -> list[Path]:
    """Folders in which notebooks are looked for by name: here, the package's, the checkout's."""
    package = Path(__file__).parents[1]
    return [Path.cwd(), package / "notebooks", package.parent / "notebooks"]


def find(name: str | Path) -> Path:
    """Path of the notebook ``name``: a path, or a name without ending that comes with ml4ad.

    Raises FileNotFoundError with the names that there are.
    """
    path = Path(name)
    if path.suffix == ".ipynb" and path.is_file():
        return path.resolve()
    for folder in folders():
        at = folder / f"{str(name).removesuffix('.ipynb')}.ipynb"
        if at.is_file():
            return at.resolve()
    known = sorted(
        str(found.relative_to(folder).with_suffix(""))
        for folder in folders()[1:]
        for found in folder.rglob("*.ipynb")
    )
    raise FileNotFoundError(f"no notebook {str(name)!r}; there: {', '.join(known) or 'none'}")


def lasting(name: str) -> str:
    """The notebook ``name`` as it can be found from every folder.

    The name of one that comes with ml4ad, else a whole path. Raises FileNotFoundError as `find`.
    """
    path = find(name)
    for folder in map(Path.resolve, folders()[1:]):
        if path.is_relative_to(folder):
            return str(path.relative_to(folder).with_suffix(""))
    return str(path)


def read(name: str | Path) -> Notebook:
    """The notebook ``name`` with its declared parameters.

    Raises FileNotFoundError, or ValueError for a file that is no notebook or whose parameters are
    not declared as they must be.
    """
    path = find(name)
    nbformat = _nbformat()
    try:
        content = nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, KeyError) as error:
        raise ValueError(f"{path} is not a notebook: {str(error).splitlines()[0]}") from error
    try:
        return Notebook(path, content, declared(content))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def table(notebook: Notebook) -> pd.DataFrame:
    """What ``notebook`` declares: name, type, default and meaning, one row per parameter."""
    import pandas as pd

    rows = [asdict(parameter) for parameter in notebook.parameters.values()]
    for row in rows:
        row["default"] = repr(row["default"])
    return pd.DataFrame(rows, columns=[field.name for field in fields(Parameter)])


def _nbformat() -> Any:
    """The library nbformat, imported without a grammar that nobody here needs.

    jsonschema, which it brings, would build a parser of international addresses (RFC 3987): as much
    time as all else that a run imports. It does without where the module cannot be imported.
    """
    name = "rfc3987_syntax"
    if name in sys.modules or "jsonschema" in sys.modules:
        return importlib.import_module("nbformat")
    sys.modules[name] = None  # type: ignore[assignment]  # the documented way to refuse an import
    try:
        return importlib.import_module("nbformat")
    finally:
        del sys.modules[name]


def is_run(cell: Any) -> bool:
    """Whether a cell is given to the kernel."""
    return cell.cell_type == "code" and bool(cell.source.strip())


def declared(content: Any) -> dict[str, Parameter]:
    """Parameters of a notebook by name; none where no cell is tagged.

    Raises ValueError for a line of the tagged cell that is not ``name: type = value  # meaning``.
    """
    tagged = [
        cell
        for cell in content.cells
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])
    ]
    if len(tagged) > 1:
        raise ValueError(f"{len(tagged)} cells tagged 'parameters', want one")
    return {p.name: p for cell in tagged for p in _declarations(cell.source)}


def _declarations(source: str) -> list[Parameter]:
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"cell 'parameters', line {error.lineno}: {error.msg}") from error
    meanings = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    return [_declaration(s, meanings.get(s.end_lineno or s.lineno, "")) for s in statements]


def _declaration(statement: ast.stmt, meaning: str) -> Parameter:
    text = ast.unparse(statement)
    if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
        raise ValueError(f"cell 'parameters': {text!r}, want name: type = value  # meaning")
    kind = ast.unparse(statement.annotation)
    if kind not in TYPES:
        raise ValueError(f"cell 'parameters': {text!r} is of {kind}, want {', '.join(TYPES)}")
    try:
        default = ast.literal_eval(statement.value or ast.Constant(None))
    except ValueError as error:
        raise ValueError(f"cell 'parameters': {text!r}: want a plain value") from error
    parameter = Parameter(statement.target.id, kind, default, meaning)
    parameter.check(default)
    return parameter


def _fits(kind: str, value: object) -> bool:
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    if kind == "float":
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, int if kind == "int" else str)


def _parsed(kind: str, text: str) -> object:
    if kind == "bool":
        if text.lower() not in _TRUTH:
            raise ValueError(f"{text!r} is neither true nor false")
        return _TRUTH[text.lower()]
    return {"int": int, "float": float, "str": str}[kind](text)
