"""Runs of notebooks that a page has started: how far they are, and what came of them."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ml4ad.dashboards import page
from ml4ad.pipelines import records, start
from ml4ad.pipelines.start import Started
from ml4ad.store.execution import RunState

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ml4ad.pipelines.records import Record


def link(record: Record) -> str:
    """HTML that leads to the executed notebook, or says that there is none yet."""
    if record.page is None:
        return page.NONE
    where = f"../../ml4ad/runs/{record.pipeline_run_id}"
    name = html.escape(record.notebook)
    return (
        f'<a href="{where}" target="_blank" rel="noopener">read {name}</a> '
        f'<a href="{where}.ipynb" download>.ipynb</a>'
    )


def progress(record: Record) -> str:
    """HTML of how far a run is, in cells."""
    if record.state is not RunState.RUNNING:
        return f"{record.cell} of {record.n_cells}"
    at = max(record.cell - 1, 0)
    return (
        f'<progress max="{record.n_cells}" value="{at}" aria-label="cells done"></progress> '
        f"{record.cell} of {record.n_cells}"
    )


class Starter:
    """Starts notebooks and tells of them in ``widget``; they go on when the page is closed."""

    def __init__(self, database_url: Callable[[], str | None]) -> None:
        self._url = database_url
        self._running: list[Started] = []
        self.widget = widgets.HTML()

    def begin(
        self, notebooks: Sequence[str], parameters: Mapping[str, Any], **more: Any
    ) -> Started:
        """Start them one after the other; raises ValueError as `start.steps` does."""
        begun = start.steps(notebooks, parameters, database_url=self._url(), **more)
        self._running.append(begun)
        self._say([self._at_work(begun, None)])
        return begun

    def again(self, run_id: int) -> Started:
        """Run a notebook again with the parameters that it had."""
        begun = start.again(run_id, database_url=self._url())
        self._running.append(begun)
        self._say([self._at_work(begun, None)])
        return begun

    @property
    def is_busy(self) -> bool:
        """Whether something that was started has not ended, or not yet been told."""
        return bool(self._running)

    def follow(self, engine: sa.Engine) -> bool:
        """Tell how far all are; whether one has ended since the last time."""
        if not self._running:
            return False
        found = records.recent(engine, limit=100)
        lines, left = [], []
        for begun in self._running:
            # Of several one after the other the newest is the one that it is at.
            own = next((one for one in found if begun.owns(one)), None)
            if begun.is_over:
                lines.append(self._ended(begun, own))
                begun.said.close()
            else:
                lines.append(self._at_work(begun, own))
                left.append(begun)
        ended = len(left) < len(self._running)
        self._running = left
        self._say(lines)
        return ended

    def _at_work(self, begun: Started, record: Record | None) -> str:
        what = html.escape(begun.what)
        if record is None:
            return f'<div class="ml4ad-banner note" role="status">Started: {what}.</div>'
        return (
            f'<div class="ml4ad-banner note" role="status">At work: {what}: '
            f"run {record.pipeline_run_id}, {html.escape(record.notebook)}, "
            f"cell {progress(record)}</div>"
        )

    def _ended(self, begun: Started, record: Record | None) -> str:
        what = html.escape(begun.what)
        if not begun.failed and record is not None:
            took = f"{record.duration.total_seconds():.0f} s"
            return (
                f'<div class="ml4ad-banner note" role="status"><b>Done: {what}</b> '
                f"(run {record.pipeline_run_id}, {took}). {link(record)}</div>"
            )
        said = html.escape(begun.last_line() or "it ended without a word")
        more = "" if record is None else f" {link(record)}"
        return f'<div class="ml4ad-banner" role="alert"><b>Failed: {what}.</b> {said}{more}</div>'

    def _say(self, lines: Sequence[str]) -> None:
        said = "".join(lines)
        if self.widget.value != said:
            self.widget.value = said
