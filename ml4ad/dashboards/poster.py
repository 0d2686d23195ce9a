"""How a page looks, as plain HTML: what a browser shows while the page itself is on its way.

Widgets take seconds to come alive in a browser; their looks are known in the kernel before. Names
of classes are those of Jupyter's widgets, so that `page.css` dresses both alike.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable
from typing import Any

import ipywidgets as widgets

from ml4ad.dashboards.browser import Frame, Plot, Tree

_LAYOUT = ("width", "height", "display", "flex_flow", "align_items", "grid_gap", "flex")
#: Of a long list so many entries are shown.
_MOST_LISTED = 40


def html_of(widget: widgets.Widget) -> str:
    """A widget and all inside it; "" for what has no looks of its own."""
    for kind, drawn in _DRAWN.items():
        if isinstance(widget, kind):
            return drawn(widget)
    return ""


def _div(widget: widgets.DOMWidget, classes: str, inside: str) -> str:
    names = html.escape(" ".join((classes, *widget._dom_classes)))
    given = ((name, getattr(widget.layout, name, None)) for name in _LAYOUT)
    style = "".join(f"{name.replace('_', '-')}:{value};" for name, value in given if value)
    return f'<div class="{names}" style="{html.escape(style)}">{inside}</div>'


def _inside(children: Iterable[widgets.Widget]) -> str:
    return "".join(html_of(child) for child in children)


def _labelled(widget: widgets.Widget, kind: str, control: str) -> str:
    width = getattr(widget.style, "description_width", "") or "80px"
    label = f'<label class="widget-label" style="width:{html.escape(width)}">' + (
        f"{html.escape(widget.description)}</label>"
    )
    return _div(
        widget, f"widget-inline-hbox {kind}", (label if widget.description else "") + control
    )


def _select(widget: Any, kind: str, chosen: Iterable[str], rows: int = 0) -> str:
    chosen = set(chosen)
    labels = [str(label) for label in widget._options_labels]
    if not rows:
        labels = [label for label in labels if label in chosen]
    options = "".join(
        f"<option{' selected' if label in chosen else ''}>{html.escape(label)}</option>"
        for label in labels[:_MOST_LISTED]
    )
    size = f' size="{rows}"' if rows else ""
    return _labelled(widget, kind, f"<select{size}>{options}</select>")


def _text(widget: Any) -> str:
    value, hint = str(widget.value), getattr(widget, "placeholder", "")
    box = f'<input value="{html.escape(value)}" placeholder="{html.escape(hint)}">'
    return _labelled(widget, "widget-text", box)


def _readout(widget: Any, said: str) -> str:
    return _labelled(widget, "widget-slider", f'<div class="widget-readout">{said}</div>')


def _button(text: str, classes: str = "", style: str = "") -> str:
    return f'<button class="jupyter-button {classes}" style="{style}">{html.escape(text)}</button>'


def _toggles(widget: widgets.ToggleButtons) -> str:
    width = html.escape(f"width:{widget.style.button_width or 'auto'}")
    buttons = "".join(
        _button(label, "mod-active" if label == widget.label else "", width)
        for label in widget._options_labels
    )
    return _labelled(widget, "widget-toggle-buttons", buttons)


def _pressed(widget: widgets.Button) -> str:
    classes = html.escape(" ".join(widget._dom_classes))
    width = html.escape(f"width:{widget.layout.width or 'auto'}")
    return _button(widget.description, classes, width)


def _tick(widget: widgets.Checkbox) -> str:
    tick = " checked" if widget.value else ""
    text = html.escape(widget.description)
    return _div(widget, "widget-checkbox", f'<label><input type="checkbox"{tick}> {text}</label>')


def _folded(widget: widgets.Accordion) -> str:
    titles = "".join(f"<div>&#9656; {html.escape(title)}</div>" for title in widget.titles)
    return _div(widget, "jupyter-widget-accordion", titles)


def _frame(frame: Frame) -> str:
    here = ' aria-current="page"'
    links = "".join(
        f'<a href="{name}.ipynb"{here if name == frame.page else ""}>{html.escape(title)}</a>'
        for name, title, _ in frame.pages
    )
    return (
        '<div class="ml4ad-frame"><nav class="ml4ad-nav" aria-label="Pages">'
        f'<a href="../../">ml4ad</a>{links}</nav></div>'
    )


def _plot(plot: Plot) -> str:
    if not plot.figure:
        return ""
    # Within a script no "<" may look like its end.
    shown = json.dumps({"figure": plot.figure, "marks": plot.marks}).replace("<", "\\u003c")
    return (
        f'<div class="ml4ad-plot-frame"><div class="ml4ad-plot" role="img" aria-label="'
        f'{html.escape(plot.label)}"></div><div class="ml4ad-caption"></div>'
        f'<script type="application/json">{shown}</script></div>'
    )


def _tree(tree: Tree) -> str:
    names = "".join(f"<div>{html.escape(name)}</div>" for name in tree.value)
    return (
        '<div class="ml4ad-tree"><input type="search" placeholder="Search elements (words, *)">'
        f'<div class="ml4ad-count">{len(tree.elements)} elements</div>'
        f'<div class="ml4ad-list">{names}</div></div>'
    )


_DRAWN: dict[type[widgets.Widget], Callable[[Any], str]] = {
    Plot: _plot,
    Frame: _frame,
    Tree: _tree,
    widgets.Accordion: _folded,
    widgets.VBox: lambda one: _div(one, "widget-box widget-vbox", _inside(one.children)),
    widgets.HBox: lambda one: _div(one, "widget-box widget-hbox", _inside(one.children)),
    widgets.Box: lambda one: _div(one, "widget-box", _inside(one.children)),
    widgets.HTML: lambda one: _div(
        one, "widget-html", f'<div class="widget-html-content">{one.value}</div>'
    ),
    widgets.Select: lambda one: _select(one, "widget-select", [one.label], one.rows),
    widgets.SelectMultiple: lambda one: _select(one, "widget-select", one.label, one.rows),
    widgets.Dropdown: lambda one: _select(one, "widget-dropdown", [one.label]),
    widgets.ToggleButtons: _toggles,
    widgets.Button: _pressed,
    widgets.Checkbox: _tick,
    widgets.Text: _text,
    widgets.BoundedIntText: _text,
    widgets.BoundedFloatText: _text,
    widgets.IntSlider: lambda one: _readout(one, str(one.value)),
    widgets.IntRangeSlider: lambda one: _readout(one, "{} \N{EN DASH} {}".format(*one.value)),
}
