"""Settings of the documentation site: sphinx-build -W -n -c docs . build/site.

The source directory is the root of the repository, so that a link between pages is the same here and on a forge.
"""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "hybridvif"
author = "The hybridvif developers"
version = release = version_of("hybridvif")
root_doc = "docs/index"
include_patterns = ["docs/*.md", "*.md", "examples/**/*.md"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "oslo_config.sphinxext"]

html_extra_path = ["_site"]  # a redirect to the root document
html_theme = "alabaster"
html_theme_options = {"description": "Hybrid network ports of OpenStack", "fixed_sidebar": True, "page_width": "1100px"}
html_sidebars = {"**": ["about.html", "navigation.html", "searchbox.html"]}

myst_heading_anchors = 4
myst_ref_domains = ["std"]  # the domain of oslo.config cannot resolve a reference of MyST
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False}
nitpicky = True
# The site is built without a network, so names of other projects have no target.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!hybridvif\b).*"),
    # The rules in the annotations of parts: the table in host.md has their reasons.
    (r"py:class", r"hybridvif\.model\.names\.(Attribute|[a-z_]+)"),
]
