"""An executed notebook as one HTML page that loads nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

# nbconvert's own page, without the scripts that it would load: formulas stay as they are written.
_TEMPLATE = """\
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
"""

#: Tag of the cells whose code the page leaves out: those of a page for people who do not program.
WITHOUT_CODE = "remove_input"


def write(notebook: Path) -> Path:
    """Path of the page, beside the notebook; of cells tagged `WITHOUT_CODE` only results."""
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    removing = {"enabled": True, "remove_input_tags": {WITHOUT_CODE}}
    exporter = HTMLExporter(
        config=Config(TagRemovePreprocessor=removing),
        extra_loaders=[DictLoader({"ml4ad.html.j2": _TEMPLATE})],
        template_file="ml4ad.html.j2",
        embed_images=True,
    )
    body, _ = exporter.from_filename(str(notebook))
    page = notebook.with_suffix(".html")
    page.write_text(body, encoding="utf-8")
    return page
