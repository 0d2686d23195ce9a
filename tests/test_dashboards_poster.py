"""What is seen of a page before it is alive."""

import asyncio
import json
import re

import ipywidgets as widgets
import pytest
from jupyter_client.manager import start_new_async_kernel
from test_dashboards_shift import judged, opened  # noqa: F401 (fixtures)

from ml4ad.dashboards import page, poster, serve
from ml4ad.dashboards.browser import Plot

WAIT_S = 120


def figures(text):
    """What the pictures of a poster show."""
    found = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    return [json.loads(one) for one in found]


def test_a_poster_says_and_draws_what_the_page_does(judged, opened):  # noqa: F811
    shown = opened(judged)
    text = poster.html_of(shown.widget)
    assert shown.strip.value in text
    assert shown.list.label in text
    drawn = [one for one in (shown.map, shown.plot, shown.trend) if one.figure]
    assert len(drawn) >= 2
    assert figures(text) == [{"figure": one.figure, "marks": one.marks} for one in drawn]


def test_no_name_becomes_a_part_of_the_page():
    name = '</script></select><b>x</b>" onload="'
    figure = {"data": [{"name": name}], "layout": {}}
    parts = [
        *(Plot(figure=figure, label=name), widgets.Dropdown(options=[name], description=name)),
        *(widgets.Text(name, placeholder=name), widgets.Button(description=name)),
        *(widgets.SelectMultiple(options=[name], value=[name]), widgets.Checkbox(description=name)),
        widgets.ToggleButtons(options=[name]),
        widgets.Accordion([widgets.HTML()], titles=(name,)),
    ]
    text = poster.html_of(widgets.VBox(parts))
    assert "<b>" not in text
    assert '" onload' not in re.sub("<script.*?</script>", "", text, flags=re.DOTALL)
    assert figures(text) == [{"figure": figure, "marks": []}]


def test_a_browser_whose_view_was_prepared_finds_it_and_no_other(judged, opened, monkeypatch):  # noqa: F811
    shown = opened(judged)
    loads = []
    load = shown.load
    monkeypatch.setattr(shown, "load", lambda: (loads.append(1), load()))
    looks = page.greet("run=7&me=A%2Fcalm&ls=2")
    assert loads == [1]
    assert "A/calm" in looks._repr_html_()
    before = shown.view()
    shown.frame._heard("hello", "run=7&me=A%2Fcalm&ls=2")
    assert loads == [1]
    assert shown.view() == before
    # It is prepared for one visit; and who asks for something else gets that.
    shown.frame._heard("hello", "run=7&me=A%2Fcalm&ls=2")
    assert loads == [1, 1]


def test_a_kernel_without_a_page_says_so(monkeypatch):
    monkeypatch.setattr(page.Page, "opened", None)
    with pytest.raises(LookupError, match="no page"):
        page.greet("")


_SLOW = """
import time
from ml4ad.dashboards import page

def greet(search):
    time.sleep(600 if search else 1)
    return page.Looks("<b>as it is</b>")

page.greet = greet
"""


def test_a_kernel_is_waited_for_as_long_as_it_lives(monkeypatch):
    monkeypatch.setattr(serve, "_LOOK_S", 0.1)

    async def asked():
        manager, client = await start_new_async_kernel()
        try:
            await client.execute(_SLOW, reply=True, timeout=WAIT_S)
            looks = await asyncio.wait_for(serve._poster(manager, ""), WAIT_S)
            never = asyncio.ensure_future(serve._poster(manager, "run=7"))
            await asyncio.sleep(0.3)
            assert not never.done()
        finally:
            client.stop_channels()
            await manager.shutdown_kernel(now=True)
        return looks, await asyncio.wait_for(never, WAIT_S)

    looks, nothing = asyncio.run(asked())
    assert "<b>as it is</b>" in looks
    assert nothing == ""
