"""How the documentation is built: Sphinx, Markdown by MyST, Trio's way of writing async."""

from cw import __version__

project = "cw"
copyright = "the cw authors"
release = __version__
version = ".".join(release.split(".")[:2])

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinxcontrib_trio",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# In Markdown a link to a file of the repository is right on the code host and means nothing
# here; tests/test_tidy.py checks such paths.
suppress_warnings = ["myst.xref_missing"]
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
# Seen by autodoc alone: what a page documents must import where there is no GPU.
autodoc_mock_imports = ["cuda"]

# Only the blocks that ask for it: `>>>` in prose may need a cluster.
doctest_test_doctest_blocks = ""

html_theme = "furo"
html_title = f"cw {release}"
