"""A small language for cuts on conditions, in Python's words, turned into SQL expressions.

``pileup > 25 and beams_stable and prescale_name in ("2b", "62b")``. What is missing does not pass,
and neither does its negation: both ``pileup > 25`` and ``not pileup > 25`` leave out a lumisection
whose pileup is not known; ``pileup is None`` finds it.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import sqlalchemy as sa

NodeType = Literal["number", "flag", "text", "time", "none"]

#: Longest expression, in characters; a person's have a line or two.
LONGEST = 2000

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], sa.ColumnElement[Any]]] = {
    ast.Eq: lambda left, right: left == right,
    ast.NotEq: lambda left, right: left != right,
    ast.Lt: lambda left, right: left < right,
    ast.LtE: lambda left, right: left <= right,
    ast.Gt: lambda left, right: left > right,
    ast.GtE: lambda left, right: left >= right,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], sa.ColumnElement[Any]]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    # What is divided by nothing is not known.
    ast.Div: lambda left, right: left / sa.func.nullif(right, 0.0),
}


@dataclass(frozen=True)
class Value:
    """An SQL expression and the type that the language gives it."""

    sql: Any
    type: NodeType


@dataclass(frozen=True)
class Scope:
    """What an expression may name.

    ``columns`` are plain names and dotted ones (``run.energy``); ``functions`` take one or more
    literal texts.
    """

    columns: Mapping[str, Value]
    functions: Mapping[str, Callable[..., Value]]


def _negated(condition: Any) -> sa.ColumnElement[bool]:
    # SQLAlchemy's NOT takes no brackets: "(not x) is None" would become NOT (x IS NULL).
    return condition == sa.literal(False)


def compiled(expression: str, scope: Scope) -> sa.ColumnElement[bool]:
    """SQL condition that an expression stands for.

    Comparisons (also chained), and, or, not, in, is None, numbers, texts, True, False, + - * /, a
    text in a column of texts, names and functions of the scope; nothing else.
    Raises ValueError, naming what is not understood and what there is, or that types do not fit.
    """
    if len(expression) > LONGEST:
        raise ValueError(f"where: {len(expression)} characters: want at most {LONGEST}")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        found = _Compiler(expression, scope).value(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(
            said if said.startswith("where") else f"where {expression!r}: {said}"
        ) from (None if said.startswith("where") else error)
    if found.type != "flag":
        raise ValueError(
            f"where {expression!r}: gives a {found.type}: want a condition, such as pileup > 25"
        )
    return found.sql


class _Compiler:
    def __init__(self, expression: str, scope: Scope) -> None:
        self.expression = expression
        self.scope = scope

    def refusal(self, node: ast.AST, why: str) -> ValueError:
        part = ast.get_source_segment(self.expression.strip(), node) or type(node).__name__
        return ValueError(f"where {self.expression!r}: {part!r}: {why}")

    def value(self, node: ast.expr) -> Value:
        known: dict[type[ast.expr], Callable[[Any], Value]] = {
            ast.Name: self.name,
            ast.Attribute: self.name,
            ast.Constant: self.constant,
            ast.BoolOp: self.logic,
            ast.UnaryOp: self.unary,
            ast.BinOp: self.arithmetic,
            ast.Compare: self.comparison,
            ast.Call: self.call,
        }
        if type(node) not in known:
            raise self.refusal(
                node, "not understood; there are comparisons, and, or, not, in, is None, + - * /"
            )
        return known[type(node)](node)

    def name(self, node: ast.Name | ast.Attribute) -> Value:
        name = ast.unparse(node)
        if name in self.scope.columns:
            return self.scope.columns[name]
        near = difflib.get_close_matches(name, self.scope.columns, n=3)
        there = f"near: {', '.join(near)}" if near else f"there are {', '.join(self.scope.columns)}"
        raise self.refusal(node, f"no column {name!r}; {there}")

    def constant(self, node: ast.Constant) -> Value:
        value = node.value
        if value is None:
            return Value(sa.null(), "none")
        if isinstance(value, bool):
            return Value(sa.literal(value), "flag")
        if isinstance(value, int | float):
            try:
                return Value(sa.literal(float(value), sa.Double), "number")
            except OverflowError:
                raise self.refusal(node, "too large") from None
        if isinstance(value, str):
            if "\0" in value:
                raise self.refusal(node, "no text holds NUL")
            return Value(sa.literal(value, sa.Text), "text")
        raise self.refusal(node, f"{type(value).__name__} is not understood")

    def logic(self, node: ast.BoolOp) -> Value:
        parts = [self.flag(part) for part in node.values]
        return Value(sa.and_(*parts) if isinstance(node.op, ast.And) else sa.or_(*parts), "flag")

    def flag(self, node: ast.expr) -> Any:
        found = self.value(node)
        if found.type != "flag":
            raise self.refusal(node, f"a {found.type}: want a condition, such as pileup > 25")
        return found.sql

    def unary(self, node: ast.UnaryOp) -> Value:
        if isinstance(node.op, ast.Not):
            return Value(_negated(self.flag(node.operand)), "flag")
        if isinstance(node.op, ast.USub | ast.UAdd):
            sign = -1.0 if isinstance(node.op, ast.USub) else 1.0
            return Value(sa.literal(sign, sa.Double) * self.number(node.operand), "number")
        raise self.refusal(node, "not understood; there are not and -")

    def number(self, node: ast.expr) -> Any:
        found = self.value(node)
        if found.type != "number":
            raise self.refusal(node, f"a {found.type}: want a number")
        # Whole columns would divide to whole numbers, and overflow.
        return sa.cast(found.sql, sa.Double)

    def arithmetic(self, node: ast.BinOp) -> Value:
        if type(node.op) not in _ARITHMETIC:
            raise self.refusal(node, "not understood; there are + - * /")
        operate = _ARITHMETIC[type(node.op)]
        return Value(operate(self.number(node.left), self.number(node.right)), "number")

    def comparison(self, node: ast.Compare) -> Value:
        sides = [node.left, *node.comparators]
        parts = [
            self.compared(node, left, operator, right)
            for left, operator, right in zip(sides, node.ops, sides[1:], strict=False)
        ]
        return Value(sa.and_(*parts), "flag")

    def compared(
        self, node: ast.Compare, left: ast.expr, operator: ast.cmpop, right: ast.expr
    ) -> Any:
        if isinstance(operator, ast.In | ast.NotIn):
            found = self.membership(node, left, right)
            return _negated(found) if isinstance(operator, ast.NotIn) else found
        first, second = self.value(left), self.value(right)
        if isinstance(operator, ast.Is | ast.IsNot):
            if second.type != "none":
                raise self.refusal(node, "is and is not want None; compare with == and !=")
            missing = sa.func.num_nulls(first.sql)
            return missing == int(isinstance(operator, ast.Is))
        if "none" in (first.type, second.type):
            raise self.refusal(node, "nothing equals None; want 'is None' or 'is not None'")
        first, second = self.alike(node, first, second)
        if first.type == "flag" and not isinstance(operator, ast.Eq | ast.NotEq):
            raise self.refusal(node, "true and false have no order; want == or !=")
        return _COMPARISONS[type(operator)](first.sql, second.sql)

    def alike(self, node: ast.AST, first: Value, second: Value) -> tuple[Value, Value]:
        if {first.type, second.type} == {"time", "text"}:
            return self.as_time(node, first), self.as_time(node, second)
        if first.type != second.type:
            raise self.refusal(node, f"a {first.type} and a {second.type} do not compare")
        return first, second

    def as_time(self, node: ast.AST, side: Value) -> Value:
        if side.type == "time":
            return side
        text = side.sql.value if isinstance(side.sql, sa.BindParameter) else ""
        stamp: Any = pd.NaT
        # Without a digit it is a word: pandas reads "now" as the time of asking.
        if any(letter.isdigit() for letter in str(text)):
            with contextlib.suppress(ValueError):
                stamp = pd.Timestamp(str(text))
        if pd.isna(stamp):
            raise self.refusal(node, "want a time such as '2024-05-24 11:04'")
        stamp = stamp.tz_localize("UTC") if stamp.tz is None else stamp
        return Value(sa.literal(stamp.to_pydatetime(), sa.DateTime(timezone=True)), "time")

    def membership(self, node: ast.Compare, left: ast.expr, right: ast.expr) -> Any:
        first = self.value(left)
        if not isinstance(right, ast.Tuple | ast.List | ast.Set):
            whole = self.value(right)
            if first.type != "text" or whole.type != "text":
                raise self.refusal(node, "in wants a list, or a text in a column of texts")
            return sa.func.strpos(whole.sql, first.sql) > 0
        if not right.elts:
            raise self.refusal(node, "an empty list has nothing in it")
        parts = []
        for element in right.elts:
            one = self.value(element)
            if one.type == "none":
                raise self.refusal(node, "nothing equals None; want 'is None'")
            here, there = self.alike(node, first, one)
            parts.append(here.sql == there.sql)
        return sa.or_(*parts)

    def call(self, node: ast.Call) -> Value:
        name = ast.unparse(node.func)
        if name not in self.scope.functions:
            raise self.refusal(
                node, f"no function {name!r}; there are {', '.join(self.scope.functions)}"
            )
        texts = [
            argument.value
            for argument in node.args
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        ]
        if node.keywords or len(texts) < len(node.args) or "\0" in "".join(texts):
            raise self.refusal(node, f"{name} wants texts in quotes")
        try:
            return self.scope.functions[name](*texts)
        except TypeError as error:
            raise self.refusal(node, str(error).replace("()", "")) from error
