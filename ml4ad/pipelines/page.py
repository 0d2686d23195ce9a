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


def write(notebook: Path, *, code: bool = True) -> Path:
    """Path of the page, beside the notebook; without ``code`` only prose and results are shown."""
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"ml4ad.html.j2": _TEMPLATE})],
        template_file="ml4ad.html.j2",
        exclude_input=not code,
        exclude_input_prompt=not code,
        exclude_output_prompt=not code,
        embed_images=True,
    )
    body, _ = exporter.from_filename(str(notebook))
    page = notebook.with_suffix(".html")
    page.write_text(body, encoding="utf-8")
    return page
