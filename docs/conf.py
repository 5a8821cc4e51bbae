"""Settings of the documentation. Build it with `nox -s docs`."""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "mirrorha"
author = "the mirrorha authors"
copyright = author
release = version_of("mirrorha")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib_trio",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = "mirrorha"
