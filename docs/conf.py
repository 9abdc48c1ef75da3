"""How Sphinx builds the pages; CONTRIBUTING.md has the command.

The root of the repository is the source, so that README.md, CHANGELOG.md, CONTRIBUTING.md and the
notebooks are pages as they are, without copies.
"""

import fitkit

project = "fitkit"
author = copyright = "The fitkit developers"
version = release = fitkit.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",  # for the role `autolink`
    "sphinx.ext.napoleon",
]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "docs/**.md",
    "notebooks/*.ipynb",
    "notebooks/data/*/README.md",
]

# The saved outputs are what the tests compare with.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# A name in single backticks is a link where it is one of ours; else it may be a parameter.
default_role = "autolink"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_preprocess_types = False
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
pygments_dark_style = "monokai"
html_title = "fitkit"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_extra_path = ["_root"]  # index.html, which leads to root_doc
html_copy_source = False
html_show_copyright = False
