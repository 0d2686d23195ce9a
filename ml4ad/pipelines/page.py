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

#: Tag of cells whose code the page leaves out. Where the parameters have it, the whole page is for
#: people who do not program: no code, no numbers of cells, nothing of what libraries warn of.
WITHOUT_CODE = "remove_input"


def write(notebook: Path) -> Path:
    """Path of the page, beside the notebook; of cells tagged `WITHOUT_CODE` only results."""
    import nbformat
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    content = nbformat.read(notebook, as_version=4)
    read_only = any(
        {"parameters", WITHOUT_CODE} <= set(cell.metadata.get("tags", ())) for cell in content.cells
    )
    for cell in content.cells if read_only else ():
        if cell.cell_type == "code":
            cell.outputs = [own for own in cell.outputs if own.get("name") != "stderr"]
    removing = {"enabled": True, "remove_input_tags": {WITHOUT_CODE}}
    exporter = HTMLExporter(
        config=Config(TagRemovePreprocessor=removing),
        extra_loaders=[DictLoader({"ml4ad.html.j2": _TEMPLATE})],
        template_file="ml4ad.html.j2",
        embed_images=True,
        exclude_input=read_only,
        exclude_input_prompt=read_only,
        exclude_output_prompt=read_only,
        # A pilcrow beside each title, where there is nothing to click for.
        exclude_anchor_links=True,
    )
    body, _ = exporter.from_notebook_node(
        content, resources={"metadata": {"name": notebook.stem, "path": str(notebook.parent)}}
    )
    page = notebook.with_suffix(".html")
    page.write_text(body, encoding="utf-8")
    return page
