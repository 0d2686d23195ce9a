"""What all pages have: a frame, a banner for what went wrong, and a view that is an address."""

from __future__ import annotations

import html
import logging
import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, urlencode

import ipywidgets as widgets
import sqlalchemy as sa

from ml4ad.dashboards.browser import Frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from ml4ad.archive import Archive

_LOG = logging.getLogger(__name__)

#: Notebook, title, and what the start page says of it.
PAGES = (
    ("shift", "Shift", "Which run, is it all right, where not, since when; say what you know."),
    ("explore", "Explore", "Any element, run and lumisection: overlay, compare, download."),
    ("certify", "Certify", "Good, bad and not assessed lumisections, with reasons, as JSON."),
    ("models", "Models", "What was learned from what, how well it finds faults; put to work."),
    ("operate", "Operate", "Files and their errors, runs of notebooks, workers, the schedule."),
)

#: Pages whose address may name a dataset and a run.
OF_A_RUN = ("shift", "explore", "certify")


class Page:
    """A page: ``widget`` is what a notebook shows.

    ``archive`` None connects where the settings say, and tries again while that fails: a page that
    is open when the database goes says so, and goes on when it is back.
    """

    name = ""
    #: That of this process: a kernel has one.
    opened: ClassVar[Page | None] = None

    def __init__(self, archive: Archive | None = None) -> None:
        self._archive = archive
        self._quiet = False
        self.is_gone = False
        self._wanted: dict[str, list[str]] = {}
        self._prepared: str | None = None
        pages = [(name, title, name in OF_A_RUN) for name, title, _ in PAGES]
        self.frame = Frame(self.name, pages, self._heard)
        self.banner = widgets.HTML()
        self.body = widgets.VBox()
        self.widget = widgets.VBox([self.frame, self.banner, self.body])
        self.widget.add_class("ml4ad-page")
        self.widget.add_class(f"ml4ad-{self.name}")
        Page.opened = self

    @property
    def archive(self) -> Archive:
        """The archive, connected on first use; raises what `ml4ad.connect` raises."""
        if self._archive is None:
            from ml4ad.archive import connect

            self._archive = connect()
        return self._archive

    # -- what a page must say ---------------------------------------------------------------------

    @abstractmethod
    def load(self) -> None:
        """Ask the archive what there is, and show it."""

    @abstractmethod
    def view(self) -> Mapping[str, Any]:
        """What tells this view from others: texts, numbers, or lists of them."""

    @abstractmethod
    def apply(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Show the view that an address asks for; what it does not name stays."""

    def follow(self) -> None:
        """Called every two seconds while the page is open."""

    # -- errors -----------------------------------------------------------------------------------

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """What goes wrong inside becomes a sentence on the page."""
        try:
            yield
        except (ConnectionError, sa.exc.SQLAlchemyError) as error:
            self.is_gone = True
            self._say("The database does not answer.", _plain(error), _WAITS)
        except (OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError) as error:
            # Whatever it is, the database answered.
            self.is_gone = False
            known = isinstance(error, ValueError | KeyError | OSError)
            if not known:
                _LOG.error("page %s", self.name, exc_info=error)
            self._say(
                "That is not possible." if known else "This page has a fault.",
                _plain(error),
                "" if known else "Reload it; if it comes back, report the line above.",
            )
        else:
            if self.is_gone:
                self.is_gone = False
                self.quiet()

    def _say(self, head: str, text: str, more: str = "") -> None:
        self.banner.value = (
            f'<div class="ml4ad-banner" role="alert"><b>{html.escape(head)}</b> '
            f"{html.escape(text)} {html.escape(more)}</div>"
        )

    def note(self, text: str) -> None:
        """Tell what was done."""
        self.banner.value = (
            f'<div class="ml4ad-banner note" role="status">{html.escape(text)}</div>'
        )

    def quiet(self) -> None:
        """Take the banner away."""
        if self.banner.value:
            self.banner.value = ""

    def begin(self) -> None:
        """Load for the first time."""
        with self.guarded():
            self.load()

    def on(self, control: Any, react: Callable[[], None], trait: str = "value") -> None:
        """Call ``react`` when a control changes; not while the page sets controls itself."""

        def changed(_: Any) -> None:
            if self._quiet:
                return
            self.quiet()
            with self.guarded():
                react()
            self.publish()

        control.observe(changed, trait)

    def on_click(self, button: Any, react: Callable[[], None]) -> None:
        """Call ``react`` when a button is pressed."""

        def pressed(_: Any) -> None:
            self.quiet()
            with self.guarded():
                react()
            self.publish()

        button.on_click(pressed)

    @contextmanager
    def setting(self) -> Iterator[None]:
        """Controls are set inside, and nothing reacts."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    # -- address ----------------------------------------------------------------------------------

    def publish(self) -> None:
        """Put the view into the address."""
        said = {k: v for k, v in self.view().items() if v not in (None, "", [], ())}
        self.frame.view = urlencode(said, doseq=True)

    def prepare(self, search: str) -> None:
        """Show what an address asks for, whose browser is on its way."""
        self._heard("hello", search)
        self._prepared = search

    def _heard(self, kind: str, search: str) -> None:
        prepared, self._prepared = self._prepared, None
        if kind == "hello" and search == prepared and not self.is_gone:
            kind = "pulse"
        if kind == "hello":
            # The kernel was warmed up long before somebody came.
            self._wanted = parse_qs(search)
        if kind == "hello" or self.is_gone:
            with self.guarded():
                self.load()
                wanted, self._wanted = self._wanted, {}
                if wanted:
                    self.apply(wanted)
            if not self.is_gone:
                self.publish()
            return
        with self.guarded():
            self.follow()


@dataclass(frozen=True, repr=False)
class Looks:
    """HTML as a kernel hands it over."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


def greet(search: str) -> Looks:
    """Prepare the page of this kernel for an address, and tell how it looks.

    Raises LookupError where no page was opened.
    """
    from ml4ad.dashboards import poster

    if Page.opened is None:
        raise LookupError("this kernel has opened no page")
    Page.opened.prepare(search)
    return Looks(poster.html_of(Page.opened.widget))


#: What stands where there is no value.
NONE = "\N{EN DASH}"
_WAITS = "This page tries again by itself; nothing is lost."


def _plain(error: BaseException) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    lines = str(text).strip().splitlines() or [type(error).__name__]
    said = lines[0]
    return said if said.endswith((".", "!", "?")) else f"{said}."


# -- parts -----------------------------------------------------------------------------------------


def number(value: Any, digits: int = 4) -> str:
    """A number as people read it, a dash where there is none."""
    if value is None or value != value:
        return NONE
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:,.{digits}g}"


def ago(seconds: float) -> str:
    """A length of time as people read it."""
    for length, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return f"{seconds:.0f} s"


def size(nbytes: float) -> str:
    """Bytes as people read them."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if nbytes >= scale:
            return f"{nbytes / scale:.3g} {unit}"
    return f"{nbytes / 1e3:.3g} kB"


def strip(word: str, mood: str, facts: Mapping[str, str], late: Collection[str] = ()) -> str:
    """HTML of a strip: how it is in a word, then facts by name; those in ``late`` stand out."""
    parts = [f'<div class="state {mood}">{html.escape(word)}</div>']
    for name, value in facts.items():
        style = ' class="warn"' if name in late else ""
        parts.append(
            f"<div><small>{html.escape(name)}</small><b{style}>{html.escape(value)}</b></div>"
        )
    return f'<div class="ml4ad-strip">{"".join(parts)}</div>'


#: Columns of tables -> what people read; of any other name underscores become blanks.
_HEADINGS = {
    "me": "element",
    "n_ls": "LS",
    "run_number": "run",
    "first_ls": "first LS",
    "last_ls": "last LS",
    "said_at": "when",
    "said_by": "who",
    "changed_at": "when",
    "changed_by": "who",
    "n_scored": "pairs with a score",
    "nominal": "nominal alarms",
    "realised": "realised alarms",
    "n_ls_alarming": "LS that alarm",
    "n_good": "good LS",
}


def heading(name: str) -> str:
    """A column's name in words.

    >>> heading("n_ls"), heading("not assessed"), heading("flagged_both")
    ('LS', 'not assessed', 'flagged both')
    """
    return _HEADINGS.get(name, name.removeprefix("n_").replace("_", " "))


def table(
    frame: pd.DataFrame,
    links: Iterable[str] = (),
    marked: Mapping[str, Sequence[bool]] = MappingProxyType({}),
) -> str:
    """HTML of a table, with headings in words, numbers to the right.

    Columns in ``links`` hold HTML already; of those in ``marked`` the cells that are True stand
    out.
    """
    import pandas as pd

    ready = set(links)
    heads = []
    for name, values in frame.items():
        is_number = name not in ready and any(
            isinstance(value, Real) and not isinstance(value, bool) for value in values
        )
        style = ' class="number"' if is_number else ""
        heads.append(f"<th{style}>{html.escape(heading(str(name)))}</th>")
    rows = []
    for line, row in enumerate(frame.itertuples(index=False)):
        cells = []
        for name, value in zip(frame.columns, row, strict=True):
            if name in ready:
                cells.append(f"<td>{value}</td>")
            elif name in marked and marked[name][line]:
                cells.append(f'<td class="number"><b class="bad">{number(value)}</b></td>')
            elif isinstance(value, str):
                cells.append(f"<td>{html.escape(value)}</td>")
            elif isinstance(value, pd.Timestamp):
                at = value if value.tz is None else value.tz_convert("UTC")
                cells.append(f'<td class="time">{at:%Y-%m-%d %H:%M:%S %Z}</td>')
            elif value is None or value is pd.NA or value is pd.NaT:
                cells.append(f"<td>{NONE}</td>")
            elif isinstance(value, bool):
                cells.append(f"<td>{'yes' if value else 'no'}</td>")
            else:
                cells.append(f'<td class="number">{number(value)}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="ml4ad-table"><table><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def empty(text: str, what_to_do: str = "") -> str:
    """HTML of a page that has nothing to show, and of what to do; `commands` stand out in it."""
    said = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(what_to_do))
    command = f"<p>{said}</p>" if what_to_do else ""
    return f'<div class="ml4ad-empty"><p><b>{html.escape(text)}</b></p>{command}</div>'


EMPTY_ARCHIVE = empty(
    "The archive is empty: nothing was ingested yet.",
    "Take files in with `ml4ad ingest FOLDER`, or try `ml4ad demo`. This page follows by itself.",
)
