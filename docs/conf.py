"""How Sphinx builds these pages. Nothing is fetched: they work from a folder, without a network."""

import importlib.metadata
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import signal_ledger
from signal_ledger import testing
from signal_ledger_adapters.cli.views import VIEWS

project = "Signal Ledger"
author = "The Signal Ledger authors"
copyright = "The Signal Ledger authors"
release = importlib.metadata.version("signal-ledger")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_click"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autoclass_content = "class"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
# What stands in single backticks in a docstring is code; it need not be a name that these pages document.
default_role = "code"

nitpicky = True
nitpick_ignore_regex = [
    # Python's own types and those of our dependencies are described elsewhere.
    (r"py:.*", r"(asyncio|collections|contextlib|dataclasses|datetime|enum|hypothesis|logging|oban|os|typing)\..*"),
    (
        r"py:.*",
        r"(Any|BaseException|Enum|Exception|Oban|StrEnum|NamedTuple|bool|bytes|dict|float|int|list|object|str|tuple)",
    ),
    (r"py:.*", r"(ABC|None|Protocol|RuntimeError|TypeError|ValueError)"),
]

html_theme = "furo"
html_title = "Signal Ledger"
html_static_path = ["_static"]
html_copy_source = False
html_show_sourcelink = False

# Names live in modules of their own, and are documented where users import them from.
_FACADES = (signal_ledger, testing)
_PUBLIC = {
    f"{home}.{name}": f"{facade.__name__}.{name}"
    for facade in _FACADES
    for name, home in facade._HOMES.items()  # noqa: SLF001
}

_PUBLIC |= {
    f"signal_ledger.telemetry.registry.{name}": f"signal_ledger.telemetry.{name}" for name in ("Handler", "Span")
}

# Loads them all, so that annotations that name them can be evaluated.
for _facade in _FACADES:
    for _name in _facade.__all__:
        getattr(_facade, _name)


def _resolve_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    public = _PUBLIC.get(node.get("reftarget", ""))
    if public is None:
        return None
    reference: Any = env.domains.python_domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], public, node, content
    )
    return reference


# Users get these from `lite`, `attach`, `open_ledger` and `testing`; how they are made is no business of theirs.
_MADE_ELSEWHERE = (
    "signal_ledger.LiteEngine",
    "signal_ledger.Ledger",
    "signal_ledger.ObanEngine",
    "signal_ledger.testing.ManualEngine",
)


def _hide_signature(_app: Sphinx, _what: str, name: str, *_: object) -> tuple[str, str] | None:
    return ("", "") if name in _MADE_ELSEWHERE else None


def _hide_arguments(_app: Sphinx, _what: str, name: str, _obj: object, _options: object, lines: list[str]) -> None:
    if name in _MADE_ELSEWHERE:
        del lines[lines.index("Args:") :]


class _Views(Directive):
    """Tells the keys of the rows that the command line writes, as `signal_ledger_adapters.cli.views` has them."""

    def run(self) -> list[nodes.Node]:
        lines: list[str] = []
        for view in VIEWS:
            lines += [f"### `{view.name}`", "", f"{view.meaning[0].upper()}{view.meaning[1:]}.", ""]
            lines += ["| key | type | meaning |", "| --- | --- | --- |"]
            lines += [f"| `{field.key}` | {field.type} | {field.meaning} |" for field in view.fields]
            lines.append("")
        found = nodes.Element()
        self.state.nested_parse(StringList(lines), 0, found, match_titles=True)
        return found.children


def _show_examples(_app: Sphinx, _context: object, lines: list[str]) -> None:
    """Show the examples at the end of a command's help as they are typed: no quotation mark may become another."""
    if lines[:1] == ["| Examples:"]:
        typed = [line.removeprefix("| ") for line in lines[1:] if line]
        lines[:] = ["Examples:", "", ".. code-block:: sh", "", *typed, ""]


def setup(app: Sphinx) -> None:
    """Let references to a name's module find its public name, and leave out what no user calls."""
    app.add_directive("rows-of-commands", _Views)
    app.connect("sphinx-click-process-epilog", _show_examples)
    app.connect("missing-reference", _resolve_public_name)
    app.connect("autodoc-process-signature", _hide_signature)
    app.connect("autodoc-process-docstring", _hide_arguments, priority=0)  # before napoleon
