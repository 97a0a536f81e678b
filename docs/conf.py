"""The documentation site: ``make docs`` builds it into build/site. Nothing in it is loaded from elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

from docutils.nodes import SkipNode, math, math_block
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(
    0, str(ROOT)
)  # the modules of this tree are described, not those of an installation

from plastikern import __version__  # noqa: E402

project, version, release = "plastikern", __version__, __version__
copyright = "the authors of plastikern"
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "matplotlib.sphinxext.plot_directive",
    "myst_parser",
]
html_theme = "furo"
html_title = f"plastikern {version}"
html_copy_source = False
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 100
napoleon_use_ivar = True
napoleon_custom_sections = ["Sources"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
plot_include_source = plot_html_show_formats = plot_html_show_source_link = False
plot_formats = [("png", 120)]
plot_working_directory = str(ROOT)

exclude_patterns = ["results/*"]  # verdicts.md is a part of the page of figures

if any((ROOT / "docs" / "results").glob("*.json")):
    tags.add("results")  # noqa: F821  (Sphinx gives this name to the file)


def inline(writer: HTML5Translator, node: math) -> None:
    """A formula in a line, as MathML, which browsers draw without a script."""
    writer.body.append(tex2mathml(node.astext()))
    raise SkipNode


def displayed(writer: HTML5Translator, node: math_block) -> None:
    """A formula of its own."""
    writer.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise SkipNode


def setup(app: Sphinx) -> None:
    """What this file adds to Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (displayed, None))
