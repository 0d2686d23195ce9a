"""What a request to ``/api/v1/`` may ask for: the filters of `cmsdials`, by its own names.

Numbers beyond those of the database, and texts with NUL, are refused at the door.
"""

from __future__ import annotations

from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import Path
from pydantic import BaseModel, Field

from ml4ad.api import pages
from ml4ad.api.histograms import Asked
from ml4ad.api.view import View, between

LARGEST, _LARGEST_ID = 2**63 - 1, 2**31 - 1

Number = Annotated[int | None, Field(ge=-LARGEST, le=LARGEST)]
Id = Annotated[int | None, Field(ge=-_LARGEST_ID, le=_LARGEST_ID)]
Text = Annotated[str | None, Field(max_length=1000, pattern=r"^[^\x00]*$")]
#: Numbers with commas between them.
Numbers = Annotated[
    str | None, Field(max_length=50_000, pattern=r"^ *[0-9]{1,18} *(, *[0-9]{1,18} *)*$")
]
PathId = Annotated[int, Path(ge=0, le=_LARGEST_ID)]
PathNumber = Annotated[int, Path(ge=0, le=LARGEST)]


def numbers(text: str | None) -> list[int] | None:
    """Numbers of a list with commas.

    >>> numbers("1, 2"), numbers(None)
    ([1, 2], None)
    """
    return None if text is None else [int(part) for part in text.split(",")]


class Page(BaseModel):
    """Which page of a list; its size is what was asked for, up to 500, else 10."""

    next_token: Text = None
    page_size: Text = None

    def start(self, length: int) -> tuple[int, ...] | None:
        """Key of the row that the page comes after; raises InvalidCursorError."""
        return pages.cursor(self.next_token, length)

    @property
    def n_rows(self) -> int:
        """Rows of the page."""
        return pages.size(self.page_size)


class Datasets(Page):
    """Filters of datasets."""

    dataset: Text = None
    dataset__regex: Text = None


class OfDataset(Datasets):
    """Filters of what belongs to a dataset."""

    dataset_id: Id = None

    def names(self, seen: View, connection: sa.Connection) -> dict[int, str]:
        """Datasets that are asked for and seen, by number."""
        ids = None if self.dataset_id is None else [self.dataset_id]
        return seen.datasets(connection, name=self.dataset, regex=self.dataset__regex, ids=ids)


class Files(OfDataset):
    """Filters of files."""

    logical_file_name: Text = None
    logical_file_name__regex: Text = None
    status: Text = None
    min_size: Number = None


class Runs(OfDataset):
    """Filters of runs."""

    run_number: Number = None
    run_number__lte: Number = None
    run_number__gte: Number = None

    def of_runs(self, query: sa.Select[Any], column: sa.ColumnElement[int]) -> sa.Select[Any]:
        """The query with these runs."""
        return between(query, column, self.run_number, self.run_number__gte, self.run_number__lte)


class Lumisections(Runs):
    """Filters of lumisections."""

    ls_number: Number = None
    ls_number__lte: Number = None
    ls_number__gte: Number = None


class Histograms(Lumisections):
    """Filters of histograms."""

    ls_numbet__lte: Number = Field(None, description="`ls_number__lte`, as `cmsdials` spells it")
    file_id: Id = None
    logical_file_name: Text = None
    logical_file_name__regex: Text = None
    me_id: Id = None
    me: Text = None
    me__regex: Text = None
    entries__gte: Number = None

    def of(self, n_axes: int) -> Asked:
        """The same, for what reads histograms with so many axes."""
        most = [limit for limit in (self.ls_number__lte, self.ls_numbet__lte) if limit is not None]
        first_run, last_run = _span(self.run_number, self.run_number__gte, self.run_number__lte)
        first_ls, last_ls = _span(self.ls_number, self.ls_number__gte, min(most, default=None))
        return Asked(
            n_axes,
            dataset_id=self.dataset_id,
            dataset=self.dataset,
            dataset_regex=self.dataset__regex,
            file_id=self.file_id,
            logical_file_name=self.logical_file_name,
            logical_file_name_regex=self.logical_file_name__regex,
            first_run=first_run,
            last_run=last_run,
            first_ls=max(first_ls, 1),
            last_ls=last_ls,
            me_id=self.me_id,
            me=self.me,
            me_regex=self.me__regex,
            least_entries=self.entries__gte,
        )


def _span(exact: int | None, least: int | None, most: int | None) -> tuple[int, int]:
    low, high = max(0, least or 0), LARGEST if most is None else most
    return (low, high) if exact is None else (max(low, exact), min(high, exact))


class Elements(BaseModel):
    """Filters of monitoring elements."""

    me: Text = None
    me__regex: Text = None
    dim: Id = None


class Models(Page):
    """Filters of models."""

    id: Id = None
    id__in: Numbers = None
    name: Text = None
    name__regex: Text = None
    active: bool | None = None
    ready: bool | None = None
    type: Text = None
    input_signature_contains_me: Text = None
    input_signature_contains_me__regex: Text = None
    tag_name: Text = None
    tag_value: Text = None


class BadLumisections(Page):
    """Filters of lumisections in which a model alarms."""

    model_id: Id = None
    model_id__in: Numbers = None
    dataset_id: Id = None
    dataset_id__in: Numbers = None
    dataset: Text = None
    dataset__regex: Text = None
    me_id: Id = None
    me: Text = None
    me__regex: Text = None
    run_number: Number = None
    run_number__in: Numbers = None
    ls_number: Number = None
