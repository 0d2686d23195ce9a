"""OMS live: runs, lumisections and trigger rates from its JSON:API."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from ml4ad.conditions import files, record
from ml4ad.conditions.record import Conditions
from ml4ad.conditions.service import Access, Service, UnavailableError, access
from ml4ad.settings import Settings

OPERATORS = ("EQ", "NEQ", "LT", "GT", "LE", "GE", "LIKE")
#: (attribute, one of OPERATORS, value)
Filter = tuple[str, str, str | int]


def _asked(filters: Iterable[Filter]) -> dict[str, str | int]:
    asked: dict[str, str | int] = {}
    for attribute, operator, value in filters:
        if operator not in OPERATORS:
            raise ValueError(f"operator {operator!r}: want one of {', '.join(OPERATORS)}")
        asked[f"filter[{attribute}][{operator}]"] = value
    return asked


class OMSClient:
    """OMS behind an ``Access``; ``page_size`` is the number of rows asked for at a time."""

    def __init__(self, access: Access, *, page_size: int = 1000) -> None:
        self._service = Service(access)
        self._page_size = page_size
        self.source = f"OMS {access.url}"

    def __enter__(self) -> OMSClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._service.close()

    def query(
        self,
        endpoint: str,
        filters: Iterable[Filter] = (),
        *,
        fields: Sequence[str] = (),
        sort: str = "",
        **custom: str,
    ) -> list[dict[str, Any]]:
        """All rows of an endpoint (runs, lumisections, fills, hltpathrates, ...), page by page.

        A row is as OMS gives it: ``id``, ``type``, ``attributes``, ``meta``. ``custom`` are further
        parameters, such as ``{"group[granularity]": "lumisection"}``.
        Raises ValueError for an unknown operator, an answer of another shape, or fewer rows than
        OMS says there are; and as ``Service.post``.
        """
        asked: dict[str, str | int] = {**custom, **_asked(filters)}
        if fields:
            asked["fields"] = ",".join(fields)
        if sort:
            asked["sort"] = sort
        rows: list[dict[str, Any]] = []
        total: int | None = None
        while total is None or len(rows) < total:
            paging = {"page[offset]": len(rows), "page[limit]": self._page_size}
            page, total = self._page(endpoint, {**asked, **paging})
            rows.extend(page)
            last = len(page) < self._page_size if total is None else not page
            if last:
                break
        if total is not None and len(rows) != total:
            raise ValueError(
                f"{self.source}/{endpoint}: {len(rows)} rows: want {total}, as it said"
            )
        return rows

    def page(
        self, endpoint: str, filters: Iterable[Filter] = (), *, limit: int = 100, offset: int = 0
    ) -> tuple[list[dict[str, Any]], int | None]:
        """At most ``limit`` rows of an endpoint after ``offset``, and how many there are if said.

        Raises as ``query``.
        """
        paging = {"page[offset]": offset, "page[limit]": limit}
        return self._page(endpoint, {**_asked(filters), **paging})

    def _page(
        self, endpoint: str, asked: dict[str, str | int]
    ) -> tuple[list[dict[str, Any]], int | None]:
        answer = self._service.get(f"{endpoint}/", asked)
        page = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(page, list) or not all(
            isinstance(row, dict) and isinstance(row.get("attributes"), dict) for row in page
        ):
            raise ValueError(
                f"{self.source}/{endpoint}: want {{'data': [{{'attributes': ...}}]}}, "
                f"got {answer!r:.120}"
            )
        meta = answer.get("meta")
        total = meta.get("totalResourceCount") if isinstance(meta, dict) else None
        return page, total if isinstance(total, int) else None

    def fetch(self, run_numbers: Iterable[int], *, paths: Sequence[str] = ()) -> Conditions:
        """Conditions of runs, and the rates of HLT ``paths`` in their lumisections.

        Paths are full names, such as HLT_ZeroBias_v8. Runs that OMS does not know are left out.
        Raises as ``query``.
        """
        runs: list[dict[str, Any]] = []
        lumisections: list[dict[str, Any]] = []
        rates: list[dict[str, Any]] = []
        for run_number in run_numbers:
            this: Filter = ("run_number", "EQ", int(run_number))
            found = self.query("runs", [this])
            if not found:
                continue
            runs += found
            lumisections += self.query("lumisections", [this], sort="lumisection_number")
            for path in paths:
                by_ls = {"group[granularity]": "lumisection"}
                rows = self.query("hltpathrates", [this, ("path_name", "EQ", path)], **by_ls)
                rates += [
                    {**row["attributes"], "run_number": run_number, "path": path} for row in rows
                ]
        return Conditions(
            self.source,
            runs=record.runs(self._table(runs), self.source) if runs else record.no_runs(),
            lumisections=record.lumisections(self._table(lumisections), self.source)
            if lumisections
            else record.no_lumisections(),
            rates=record.rates(pd.DataFrame(rates), self.source) if rates else record.no_rates(),
        )

    def _table(self, rows: list[dict[str, Any]]) -> pd.DataFrame:
        return record.with_keys(files.records(rows, self.source))


def client(settings: Settings) -> OMSClient:
    """OMS as the settings have it; raises UnavailableError if they name none."""
    if settings.oms_url is None:
        raise UnavailableError("OMS is not configured: set oms_url (ML4AD_OMS_URL)")
    return OMSClient(access(settings, "OMS", settings.oms_url, settings.oms_audience))
