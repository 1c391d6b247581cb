"""What Sphinx is told: see https://www.sphinx-doc.org/en/master/usage/configuration.html."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import c4d

project, version = "c4d", c4d.__version__
author = project_copyright = "The c4d authors"
html_title = f"c4d {version}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"

# The pages are written for GitHub, whose anchors these are. MyST knows no other markup in them than CommonMark's.
myst_heading_anchors = 4
myst_enable_extensions = ["html_image"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 100
add_module_names = False
toc_object_entries_show_parents = "hide"
default_role = "code"
smartquotes = False  # of --option it would make a dash

# Nothing is fetched from elsewhere, so that the pages work from a disk.
html_theme = "furo"
html_static_path = [str(Path(__file__).parent / "static")]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_use_index = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
html_domain_indices = False


def _signature(app: Any, what: str, name: str, thing: Any, options: Any, signature: str | None, returns: Any) -> Any:
    """Of a class only if a reader makes one: others are given by functions, and errors are caught."""
    return ("", None) if what == "class" and not dataclasses.is_dataclass(thing) else None


def setup(app: Any) -> None:
    app.connect("autodoc-process-signature", _signature)
