"""What runs in the browser: a picture, a tree of elements, and the frame around a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import anywidget
import traitlets

STATIC = Path(__file__).with_name("static")


def plotly_source() -> Path:
    """Path of plotly.js, as the Python package brings it."""
    return Path(str(files("plotly"))) / "package_data" / "plotly.min.js"


class Plot(anywidget.AnyWidget):
    """A picture: ``figure`` is plotly's JSON, empty for none; ``clicked`` is the last point.

    ``marks`` are plotly's shapes over it. ``clicked`` holds x, y, trace (its number) and times,
    which counts clicks.
    """

    _esm = STATIC / "plot.js"
    figure = traitlets.Dict().tag(sync=True)
    marks: traitlets.List[Any] = traitlets.List().tag(sync=True)
    clicked = traitlets.Dict().tag(sync=True)
    label = traitlets.Unicode("picture").tag(sync=True)

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.on_msg(_hand_over)


def _hand_over(plot: Plot, message: Any, buffers: Any) -> None:
    del buffers
    if message.get("kind") == "plotly":
        plot.send({"kind": "plotly"}, [plotly_source().read_bytes()])


class Tree(anywidget.AnyWidget):
    """Names of ``elements`` as a tree of folders with a search; ``value`` lists the chosen ones."""

    _esm = STATIC / "tree.js"
    elements = traitlets.List(traitlets.Unicode()).tag(sync=True)
    value = traitlets.List(traitlets.Unicode()).tag(sync=True)


class Frame(anywidget.AnyWidget):
    """Links to the pages, the address of this view, and a pulse while the page is open.

    ``pages`` are name, title, and whether the link takes the dataset and the run along.

    ``view`` is the query string that the browser shows, None before there is one. ``heard`` is
    called with "hello" and the query string when a browser opens the page, and then with "pulse".
    """

    _esm = STATIC / "frame.js"
    _css = STATIC / "page.css"
    page = traitlets.Unicode().tag(sync=True)
    pages: traitlets.List[Any] = traitlets.List().tag(sync=True)
    view = traitlets.Unicode(None, allow_none=True).tag(sync=True)

    def __init__(
        self, page: str, pages: Sequence[Sequence[Any]], heard: Callable[[str, str], None]
    ) -> None:
        super().__init__(page=page, pages=[list(one) for one in pages])
        self._heard = heard
        self.on_msg(self._take)

    def _take(self, _: Any, message: Any, buffers: Any) -> None:
        del buffers
        kind = str(message.get("kind"))
        self._heard(kind, str(message.get("search", "")))
        self.send({"kind": "beat"})
        if kind == "hello":
            self.send({"kind": "ready"})

    def download(self, name: str, mime: str, content: bytes) -> None:
        """Give the browser a file to save."""
        self.send({"kind": "download", "name": name, "mime": mime}, [content])

    def go(self, where: str) -> None:
        """Lead the browser to another page."""
        self.send({"kind": "go", "where": where})
