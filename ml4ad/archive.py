"""The archive: datasets, files, runs, lumisections, elements and stacks, as arrays and tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from ml4ad import conditions, settings, store
from ml4ad.conditions.certified import Certifications
from ml4ad.dqmio.names import Pattern, matcher, near, spelled
from ml4ad.stack import HistogramStack, Ints, LsSelection
from ml4ad.store import blocks
from ml4ad.store.schema import binning, block, dataset, file, lumisection, me, run, scalar

_TIME = "datetime64[us, UTC]"


def connect(url: str | None = None) -> Archive:
    """The archive in a database: ``url``, else the one of the settings, else the embedded server's.

    Raises what `ml4ad.store.engine` raises, saying what to do.
    """
    return Archive(store.engine(url))


@dataclass(frozen=True)
class DatasetSource:
    """A dataset of an archive, answering like an open DQMIO file."""

    archive: Archive
    dataset: str

    @property
    def release(self) -> str:
        """CMSSW release of the dataset's files; "" where there are several, or none is known."""
        names = set(self.archive.files(self.dataset)["release"]) - {""}
        return names.pop() if len(names) == 1 else ""

    @property
    def index(self) -> pd.DataFrame:
        """A row per lumisection and per run (lumisection 0): run_number, ls_number, times."""
        columns = ["run_number", "ls_number", "begin_time", "end_time"]
        lumisections = self.archive.lumisections(self.dataset)[columns]
        runs = self.archive.runs(self.dataset).assign(ls_number=0)[columns]
        return pd.concat([runs, lumisections], ignore_index=True)

    def stacks(
        self, me: Pattern = "*", run_number: Any = None, ls_numbers: LsSelection | None = None
    ) -> Iterator[HistogramStack]:
        """Stacks of the elements, runs and lumisections asked for."""
        yield from self.archive.stacks(me, run_number, self.dataset, ls_numbers)

    def scalars(self, me: Pattern = "*") -> pd.DataFrame:
        """Single values of all lumisections and runs."""
        return self.archive.scalars(me, dataset=self.dataset).assign(flags=0)


class Archive:
    """All that was ingested. Every question may name a dataset, and must where it is ambiguous.

    Tables come as DataFrames in the order of their key, empty where there is nothing. `stack` is
    one indexed read, however large the archive. Patterns are globs of the whole name, compiled
    regular expressions, or several of these, as in `ml4ad.dqmio`.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the connections; the archive opens new ones if it is used again."""
        self.engine.dispose()

    def __getstate__(self) -> dict[str, Any]:
        # The address, not how it was found: another machine's settings may name another archive.
        return {"url": self.url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.engine = store.engine(state["url"])

    @property
    def url(self) -> str:
        """Address of the database, password and all."""
        return self.engine.url.render_as_string(hide_password=False)

    def __repr__(self) -> str:
        where = self.engine.url.render_as_string(hide_password=True)
        held = self.datasets()
        return f"Archive({where!r}, {len(held)} datasets, {int(held.n_ls.sum()):,} lumisections)"

    def _repr_html_(self) -> str:
        from html import escape

        url = self.engine.url
        # An embedded server is reached through a folder.
        host = url.host or str(url.query.get("host", ""))
        where = escape(f"{host}:{url.port}" if url.port else host)
        return (
            f"<div>Archive {escape(url.database or '')} at {where}</div>"
            f"{self.datasets().to_html(index=False)}"
        )

    # -- what there is ---------------------------------------------------------------------------

    def datasets(self) -> pd.DataFrame:
        """A row per dataset: dataset, era, n_files, n_runs, n_ls, packed_bytes.

        Files of which nothing is stored (waiting, damaged, refused as a whole) are not counted.
        """
        counts = (
            sa.select(
                file.c.dataset_id,
                sa.func.max(file.c.era).label("era"),
                sa.func.count()
                .filter((file.c.n_ls > 0) | (file.c.n_histograms > 0))
                .label("n_files"),
                sa.func.coalesce(sa.func.sum(file.c.packed_bytes), 0).label("packed_bytes"),
            )
            .group_by(file.c.dataset_id)
            .subquery()
        )
        runs = (
            sa.select(
                run.c.dataset_id,
                sa.func.count(sa.distinct(run.c.run_number)).label("n_runs"),
            )
            .group_by(run.c.dataset_id)
            .subquery()
        )
        lumisections = (
            sa.select(lumisection.c.dataset_id, sa.func.count().label("n_ls"))
            .group_by(lumisection.c.dataset_id)
            .subquery()
        )
        query = (
            sa.select(
                dataset.c.dataset,
                counts.c.era,
                counts.c.n_files,
                sa.func.coalesce(runs.c.n_runs, 0).label("n_runs"),
                sa.func.coalesce(lumisections.c.n_ls, 0).label("n_ls"),
                sa.cast(counts.c.packed_bytes, sa.BigInteger).label("packed_bytes"),
            )
            .join_from(dataset, counts, counts.c.dataset_id == dataset.c.dataset_id)
            .outerjoin(runs, runs.c.dataset_id == dataset.c.dataset_id)
            .outerjoin(lumisections, lumisections.c.dataset_id == dataset.c.dataset_id)
            .order_by(dataset.c.dataset)
        )
        return self._frame(query)

    def files(self, dataset: str | None = None) -> pd.DataFrame:
        """A row per file, as the table ``file`` has it, with the dataset's name."""
        query = self._of_dataset(
            sa.select(
                _datasets.c.dataset,
                *(file.c[name] for name in _FILE_COLUMNS),
            ).join_from(file, _datasets, isouter=True),
            dataset,
            file.c.dataset_id,
        )
        return self._frame(query.order_by(_datasets.c.dataset, file.c.path))

    def runs(self, dataset: str | None = None) -> pd.DataFrame:
        """A row per run: how many files and lumisections it has, which, when, how complete.

        Columns dataset, run_number, n_files, n_ls, first_ls, last_ls, begin_time, end_time and
        completeness, which is the number of lumisections here over the highest number seen: a lower
        bound of what is missing, as nobody tells how many the run had. NaN without any.
        """
        owned = (
            sa.select(
                lumisection.c.dataset_id,
                lumisection.c.run_number,
                sa.func.count().label("n_ls"),
                sa.func.min(lumisection.c.ls_number).label("first_ls"),
                sa.func.max(lumisection.c.ls_number).label("last_ls"),
                sa.func.min(lumisection.c.begin_time).label("begin_time"),
                sa.func.max(lumisection.c.end_time).label("end_time"),
            )
            .group_by(lumisection.c.dataset_id, lumisection.c.run_number)
            .subquery()
        )
        same = (owned.c.dataset_id == run.c.dataset_id) & (owned.c.run_number == run.c.run_number)
        query = self._of_dataset(
            sa.select(
                _datasets.c.dataset,
                run.c.run_number,
                sa.func.count().label("n_files"),
                sa.func.coalesce(sa.func.max(owned.c.n_ls), 0).label("n_ls"),
                sa.func.max(owned.c.first_ls).label("first_ls"),
                sa.func.max(owned.c.last_ls).label("last_ls"),
                sa.func.coalesce(
                    sa.func.min(owned.c.begin_time), sa.func.min(run.c.begin_time)
                ).label("begin_time"),
                sa.func.coalesce(sa.func.max(owned.c.end_time), sa.func.max(run.c.end_time)).label(
                    "end_time"
                ),
            )
            .join_from(run, _datasets)
            .outerjoin(owned, same)
            .group_by(_datasets.c.dataset, run.c.run_number)
            .order_by(_datasets.c.dataset, run.c.run_number),
            dataset,
            run.c.dataset_id,
        )
        frame = self._frame(query).astype({"begin_time": _TIME, "end_time": _TIME})
        return frame.assign(completeness=frame.n_ls / frame.last_ls)

    def lumisections(
        self, dataset: str | None = None, run_number: int | None = None
    ) -> pd.DataFrame:
        """A row per lumisection: dataset, run_number, ls_number, times, n_mes, file (its path).

        ``n_mes`` is the number of elements that the file has in it: 0 is known to be empty.
        """
        query = self._of_dataset(
            sa.select(
                _datasets.c.dataset,
                *(lumisection.c[n] for n in ("run_number", "ls_number", "begin_time", "end_time")),
                lumisection.c.n_mes,
                file.c.path.label("file"),
            )
            .join_from(lumisection, _datasets)
            .join(file, file.c.file_id == lumisection.c.file_id),
            dataset,
            lumisection.c.dataset_id,
        ).order_by(_datasets.c.dataset, lumisection.c.run_number, lumisection.c.ls_number)
        if run_number is not None:
            query = query.where(lumisection.c.run_number == run_number)
        return self._frame(query).astype({"begin_time": _TIME, "end_time": _TIME})

    def elements(
        self,
        pattern: Pattern = "*",
        dataset: str | None = None,
        run_number: int | None = None,
    ) -> pd.DataFrame:
        """A row per monitoring element: me, kind, subsystem, dim; those of a dataset or a run.

        Raises KeyError if the dataset is unknown.
        """
        with self._reading() as connection:
            found = self._elements(connection, pattern, self._ids(connection, dataset), run_number)
        columns = ["me", "kind", "subsystem", "dim"]
        return pd.DataFrame([[getattr(e, c) for c in columns] for e in found], columns=columns)

    def near(self, pattern: Pattern, dataset: str | None = None) -> str:
        """What to try where no element matches: "near: " and up to three names.

        Raises KeyError if the dataset is unknown.
        """
        with self._reading() as connection:
            known = self._elements(connection, "*", self._ids(connection, dataset), None)
        return _near(pattern, [element.me for element in known])

    def scalars(
        self,
        me: Pattern = "*",
        run_number: int | None = None,
        dataset: str | None = None,
    ) -> pd.DataFrame:
        """A row per Int, Float and String: dataset, run_number, ls_number, me, kind, value, file.

        Those of lumisection 0 are of the whole run, as each file of it has them.
        """
        with self._reading() as connection:
            ids = self._ids(connection, dataset)
            matches = matcher(me)
            names = connection.execute(
                sa.select(_mes.c.me_id, _mes.c.me, _mes.c.kind).where(_mes.c.dim == 0)
            )
            wanted = [row.me_id for row in names if matches(row.me)]
            query = (
                sa.select(
                    _datasets.c.dataset,
                    *(scalar.c.run_number, scalar.c.ls_number, _mes.c.me),
                    *(scalar.c.int_value, scalar.c.float_value, scalar.c.string_value),
                    file.c.path.label("file"),
                )
                .join_from(scalar, _datasets, _datasets.c.dataset_id == scalar.c.dataset_id)
                .join(_mes, _mes.c.me_id == scalar.c.me_id)
                .join(file, file.c.file_id == scalar.c.file_id)
                .where(scalar.c.dataset_id == _any(ids), scalar.c.me_id == _any(wanted))
                .order_by(
                    *(_datasets.c.dataset, scalar.c.run_number, scalar.c.ls_number, _mes.c.me),
                    file.c.path,
                )
            )
            if run_number is not None:
                query = query.where(scalar.c.run_number == run_number)
            rows = [_scalar_row(row) for row in connection.execute(query)]
        columns = ["dataset", "run_number", "ls_number", "me", "kind", "value", "file"]
        return pd.DataFrame(rows, columns=columns)

    # -- stacks ----------------------------------------------------------------------------------

    def stack(
        self,
        me: str,
        run_number: int,
        dataset: str | None = None,
        ls_numbers: LsSelection | None = None,
    ) -> HistogramStack:
        """All lumisections of one element of one run, or those wanted, exactly as the files had it.

        Per-run contents (lumisection 0) of several files of the run are parts of it, and are
        summed. Raises KeyError, naming what there is, if there is no such dataset, run or element;
        ValueError if several datasets have it and none is named, or its binning changes within the
        run (then `stacks` gives each).
        """
        with self._reading() as connection:
            found = self._blocks_of(connection, me, run_number, dataset, ls_numbers)
            by_dataset = sorted({b.dataset for b in found})
            if len(by_dataset) > 1:
                raise ValueError(
                    f"{me}, run {run_number} is in {len(by_dataset)} datasets: say which of "
                    f"{', '.join(by_dataset)}"
                )
            known = self._run_ls_numbers(connection, by_dataset[0], run_number)
        stacks = _selected(blocks.unpack(found, known), ls_numbers)
        if not stacks:
            raise KeyError(_none_of(me, run_number, ls_numbers))
        if len(stacks) > 1:
            raise ValueError(
                f"{me}: its binning changes within run {run_number} "
                f"({'; '.join(repr(s.axes) for s in stacks)}): take `stacks`, one for each"
            )
        return stacks[0]

    def stacks(
        self,
        me: Pattern = "*",
        run_number: int | Iterable[int] | None = None,
        dataset: str | None = None,
        ls_numbers: LsSelection | None = None,
    ) -> Iterator[HistogramStack]:
        """Stacks of all elements that match, of all runs or those given, one at a time.

        In the order of dataset, element and run. One (element, run) gives several stacks only where
        its binning changes. Raises KeyError if no element matches, naming what is near.
        """
        runs = None
        if run_number is not None:
            runs = [run_number] if isinstance(run_number, int | np.integer) else list(run_number)
        with self._reading() as connection:
            ids = self._ids(connection, dataset)
            found = self._elements(connection, me, ids, None, dim=True)
            if not found:
                raise KeyError(self._nothing_matches(connection, me, ids))
        for dataset_id in ids:
            for element in found:
                # Only what is asked for next is in memory, and no connection is held meanwhile.
                with self._reading() as connection:
                    query = _block_query(dataset_id, element.me_id, ls_numbers)
                    if runs is not None:
                        query = query.where(block.c.run_number == _any([int(r) for r in runs]))
                    rows = _stored(connection, query)
                    known = {
                        number: self._run_ls_numbers(connection, rows[0].dataset, number)
                        for number in {row.run_number for row in rows}
                    }
                for number, of_run in groupby(rows, key=lambda row: row.run_number):
                    yield from _selected(blocks.unpack(list(of_run), known[number]), ls_numbers)

    # -- conditions ------------------------------------------------------------------------------

    def source(self, dataset: str) -> DatasetSource:
        """A dataset as `dqmio.skim` reads it, to be written into a file.

        Raises KeyError if there is no such dataset.
        """
        with self._reading() as connection:
            self._ids(connection, dataset)
        return DatasetSource(self, dataset)

    def conditions(
        self, dataset: str | None = None, run_number: int | Iterable[int] | None = None
    ) -> pd.DataFrame:
        """Conditions of lumisections, of a dataset or all, indexed by (run_number, ls_number).

        What is not known is NA. See `ml4ad.conditions.lumisections`.
        """
        return conditions.lumisections(self.engine, dataset, run_number)

    def good(
        self,
        dataset: str | None = None,
        *,
        run_number: int | Iterable[int] | None = None,
        golden: Certifications = None,
        dcs: Certifications = None,
        exclude: Certifications = None,
        where: str | None = None,
    ) -> pd.DataFrame:
        """Lumisections fit for training: run_number and ls_number of those that fulfil all asked.

        ``archive.good(dataset, golden="Cert_2024_Golden", where="pileup > 25 and beams_stable")``;
        see `ml4ad.conditions.good`. What is missing does not pass.
        """
        return conditions.good(
            self.engine,
            dataset,
            run_number=run_number,
            golden=golden,
            dcs=dcs,
            exclude=exclude,
            where=where,
        )

    def completeness(
        self,
        dataset: str,
        run_number: int | Iterable[int] | None = None,
        *,
        expected: Certifications = None,
    ) -> pd.DataFrame:
        """Lumisections of each run here, against those there should be, and which are missing.

        See `ml4ad.conditions.completeness`.
        """
        return conditions.completeness(self.engine, dataset, run_number, expected=expected)

    # -- how -------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """A connection on which no query runs longer than the settings allow."""
        limit = settings.load().statement_timeout_s * 1000
        with self.engine.connect() as connection:
            timeout = sa.func.set_config("statement_timeout", str(limit), True)
            connection.execute(sa.select(timeout))
            yield connection

    def _frame(self, query: sa.Select[Any]) -> pd.DataFrame:
        with self._reading() as connection:
            result = connection.execute(query)
            return pd.DataFrame([tuple(row) for row in result], columns=list(result.keys()))

    def _of_dataset(
        self, query: sa.Select[Any], name: str | None, column: sa.ColumnElement[Any]
    ) -> sa.Select[Any]:
        if name is None:
            return query
        with self._reading() as connection:
            return query.where(column == self._ids(connection, name)[0])

    def _ids(self, connection: sa.Connection, name: str | None) -> list[int]:
        """Numbers of the dataset, or of all; KeyError if it is unknown."""
        query = sa.select(_datasets.c.dataset_id).order_by(_datasets.c.dataset)
        if name is None:
            return list(connection.scalars(query))
        ids = list(connection.scalars(query.where(_datasets.c.dataset == name)))
        if not ids:
            known = list(connection.scalars(sa.select(_datasets.c.dataset)))
            raise KeyError(f"no dataset {name!r}; {_near(name, known)}")
        return ids

    def _elements(
        self,
        connection: sa.Connection,
        pattern: Pattern,
        ids: Sequence[int],
        run_number: int | None,
        *,
        dim: bool = False,
    ) -> list[Any]:
        """Rows of ``me`` that match and have contents in the datasets; ``dim``: histograms only."""
        query = sa.select(_mes.c.me_id, _mes.c.me, _mes.c.kind, _mes.c.subsystem, _mes.c.dim)
        if isinstance(pattern, str) and not set("*?") & set(pattern):
            query = query.where(_mes.c.me == pattern)
        matches = matcher(pattern)
        # Matching here, rather than in the database, is what the reader does, to the letter.
        listed = [row for row in connection.execute(query.order_by(_mes.c.me)) if matches(row.me)]
        if dim:
            listed = [row for row in listed if row.dim]
        present: set[int] = set()
        for number in ids:
            absent = [row.me_id for row in listed if row.me_id not in present]
            if absent:
                present.update(_present(connection, number, absent, run_number))
        return [row for row in listed if row.me_id in present]

    def _blocks_of(
        self,
        connection: sa.Connection,
        me: str,
        run_number: int,
        dataset: str | None,
        ls_numbers: LsSelection | None,
    ) -> list[blocks.StoredBlock]:
        me_id = connection.scalar(sa.select(_mes.c.me_id).where(_mes.c.me == me))
        ids = self._ids(connection, dataset)
        if me_id is None:
            raise KeyError(self._nothing_matches(connection, me, ids))
        query = _block_query(ids, me_id, ls_numbers).where(block.c.run_number == run_number)
        found = _stored(connection, query)
        if not found:
            raise KeyError(self._not_in_run(connection, me, me_id, run_number, ids, ls_numbers))
        return found

    def _run_ls_numbers(self, connection: sa.Connection, name: str, run_number: int) -> Ints:
        query = (
            sa.select(lumisection.c.ls_number)
            .join(_datasets, _datasets.c.dataset_id == lumisection.c.dataset_id)
            .where(_datasets.c.dataset == name, lumisection.c.run_number == run_number)
            .order_by(lumisection.c.ls_number)
        )
        return np.array(list(connection.scalars(query)), dtype=np.int64)

    # -- what to say -----------------------------------------------------------------------------

    def _nothing_matches(
        self, connection: sa.Connection, pattern: Pattern, ids: Sequence[int]
    ) -> str:
        known = [row.me for row in self._elements(connection, "*", ids, None)]
        return f"no element matches {spelled(pattern)!r}; {_near(pattern, known)}"

    def _not_in_run(
        self,
        connection: sa.Connection,
        me: str,
        me_id: int,
        run_number: int,
        ids: Sequence[int],
        ls_numbers: LsSelection | None,
    ) -> str:
        of_run = sa.select(run.c.file_id).where(
            run.c.dataset_id == _any(ids), run.c.run_number == run_number
        )
        if connection.execute(of_run.limit(1)).first() is None:
            numbers = sa.select(run.c.run_number).where(run.c.dataset_id == _any(ids))
            known = sorted(connection.scalars(numbers.distinct()))
            return f"no run {run_number}; {_span(known, 'run')}"
        having = sorted(
            connection.scalars(
                sa.select(block.c.run_number)
                .where(block.c.dataset_id == _any(ids), block.c.me_id == me_id)
                .distinct()
            )
        )
        if run_number in having:
            return _none_of(me, run_number, ls_numbers)
        return f"{me} is not in run {run_number}; it is in {_span(having, 'run')}"


# The methods' arguments have the names of these tables.
_datasets, _mes = dataset, me
_FILE_COLUMNS = (
    *("path", "state", "reason", "size", "mtime", "vanished", "era", "release", "uuid", "guid"),
    *("n_ls", "n_refused", "n_histograms", "n_blocks", "packed_bytes"),
    *("indexed_at", "started_at", "finished_at", "attempts", "worker"),
)


def _any(numbers: Iterable[int]) -> sa.ColumnElement[Any]:
    return sa.any_(sa.literal(list(numbers), type_=sa.ARRAY(sa.BigInteger)))


def _present(
    connection: sa.Connection, dataset_id: int, me_ids: Sequence[int], run_number: int | None
) -> Iterator[int]:
    """Those of the elements that have contents: one probe of an index for each."""
    listed = sa.func.unnest(sa.literal(list(me_ids), type_=sa.ARRAY(sa.Integer)))
    wanted = listed.table_valued("me_id").render_derived()
    here = []
    for table in (block, scalar):
        exists = sa.select(sa.literal(1)).where(
            table.c.dataset_id == dataset_id, table.c.me_id == wanted.c.me_id
        )
        if run_number is not None:
            exists = exists.where(table.c.run_number == run_number)
        here.append(exists.exists())
    yield from connection.scalars(sa.select(wanted.c.me_id).where(sa.or_(*here)))


def _block_query(
    dataset_ids: int | Sequence[int], me_id: int, ls_numbers: LsSelection | None
) -> sa.Select[Any]:
    ids = [dataset_ids] if isinstance(dataset_ids, int) else dataset_ids
    query = (
        sa.select(
            *(me.c.me, dataset.c.dataset, block.c.run_number, block.c.file_id, block.c.first_ls),
            *(binning.c.description, block.c.packed),
        )
        .join_from(block, me, me.c.me_id == block.c.me_id)
        .join(dataset, dataset.c.dataset_id == block.c.dataset_id)
        .join(binning, binning.c.binning_id == block.c.binning_id)
        # Named one by one, the planner leaves all other partitions alone.
        .where(block.c.dataset_id.in_([sa.literal_column(str(int(i))) for i in ids]))
        .where(block.c.me_id == me_id)
        .order_by(dataset.c.dataset, block.c.run_number, block.c.first_ls)
    )
    low, high = _bounds(ls_numbers)
    if low is not None:
        query = query.where(block.c.last_ls >= low)
    if high is not None:
        query = query.where(block.c.first_ls <= high)
    return query


def _bounds(wanted: LsSelection | None) -> tuple[int | None, int | None]:
    """Lowest and highest lumisection of a selection, None where it has no end."""
    if wanted is None:
        return None, None
    if isinstance(wanted, slice):
        return wanted.start, wanted.stop
    numbers = np.asarray(wanted if isinstance(wanted, int | np.integer) else list(wanted))
    if not numbers.size:
        return 1, 0
    return int(numbers.min()), int(numbers.max())


def _stored(connection: sa.Connection, query: sa.Select[Any]) -> list[blocks.StoredBlock]:
    return [blocks.StoredBlock(*row) for row in blocks.query_bytes(connection, query)]


def _selected(
    stacks: Iterable[HistogramStack], ls_numbers: LsSelection | None
) -> list[HistogramStack]:
    if ls_numbers is None:
        return list(stacks)
    chosen = (stack.select(ls_numbers) for stack in stacks)
    return [stack for stack in chosen if len(stack)]


def _none_of(me: str, run_number: int, ls_numbers: LsSelection | None) -> str:
    return f"{me}, run {run_number}: none of the lumisections {ls_numbers} is here"


def _scalar_row(row: Any) -> tuple[Any, ...]:
    key = (row.dataset, row.run_number, row.ls_number, row.me)
    if row.int_value is not None:
        return (*key, "Int", row.int_value, row.file)
    if row.float_value is not None:
        return (*key, "Float", row.float_value, row.file)
    return (*key, "String", row.string_value.decode(errors="surrogateescape"), row.file)


def _near(wanted: Pattern, known: Sequence[str]) -> str:
    """What to look at instead of a name that is not there."""
    return near(wanted, known) if known else "the archive is empty: see `ml4ad ingest --help`"


def _span(numbers: Sequence[int], what: str) -> str:
    if not numbers:
        return f"there is no {what}"
    if len(numbers) <= 5:
        return f"{what if len(numbers) == 1 else what + 's'} {', '.join(map(str, numbers))}"
    return f"{len(numbers)} {what}s from {numbers[0]} to {numbers[-1]}"
