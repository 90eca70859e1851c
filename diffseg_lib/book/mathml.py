"""Formulas as MathML, set when the site is built: a page needs no script for them, and a screen reader reads them."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from xml.etree import ElementTree

SPACES = {"negativethinmathspace": "-0.167em", "thinmathspace": "0.167em", "mediummathspace": "0.222em", "thickmathspace": "0.278em"}
PARTS = {"mfrac": 2, "msub": 2, "msup": 2, "mover": 2, "munder": 2, "mroot": 2, "msubsup": 3, "munderover": 3}
BRACKETS = ("(", "[", "{", ")", "]", "}", ",", ".")
TAG = re.compile(r",?\s*\\tag\*?\{([^{}]*)\}")


def split_tag(latex: str) -> tuple[str, str]:
    """A formula without its ``\\tag``, and the tag's text; "" where it has none.

    >>> split_tag(r"a = b \\tag{Eq. 4}")
    ('a = b', 'Eq. 4')
    """
    found = TAG.search(latex)
    return TAG.sub("", latex), found[1] if found else ""


def to_mathml(latex: str, *, display: bool = False) -> str:
    """A formula of LaTeX as MathML that the browsers' common core of it sets.

    Args:
        latex: The formula, without dollars and without a ``\\tag``.
        display: Whether it stands on a line of its own.

    Returns:
        One ``math`` element; the formula as it was written is its ``alttext``.

    Raises:
        ValueError: If a command is unknown or something is unbalanced: no formula is set in part.

    >>> to_mathml("x_1").count("<msub>")
    1
    """
    from latex2mathml.converter import convert_to_element

    ours = re.sub(r"\\(begin|end)\{(?:aligned|split|align|gathered)\*?\}", r"\\\1{align*}", latex.strip())
    ours = re.sub(r"\\lVert(.*?)\\rVert", r"\\left\\|\1\\right\\|", ours, flags=re.DOTALL)
    try:
        root = convert_to_element(ours, display="block" if display else "inline")
    except Exception as error:  # its many errors have no common kind
        raise ValueError(f"no MathML of {latex!r}: {type(error).__name__} {error}; write it in simpler commands") from error
    for one in list(root.iter()):
        _simplify(one)
        if len(one) != PARTS.get(one.tag, len(one)):
            raise ValueError(f"no MathML of {latex!r}: something is missing from a fraction, an index or an accent in it")
        if one.tag != "mtext" and re.search(r"&|\\[A-Za-z]", one.text or ""):
            raise ValueError(f"no MathML of {latex!r}: {one.text} is not known here; write it in other commands")
    root.set("alttext", " ".join(latex.split()))
    return ElementTree.tostring(root, encoding="unicode")


def _simplify(one: ElementTree.Element) -> None:
    """Characters as themselves, named spaces as widths, columns as styles: what MathML Core kept."""
    one.text = unescape(one.text or "")
    if one.tag == "mspace" and one.get("width") in SPACES:
        one.set("width", SPACES[one.attrib["width"]])
    if side := one.attrib.pop("columnalign", ""):
        one.set("style", f"text-align: {side.split()[0]}")
    if one.attrib.pop("columnspacing", "") == "0em 2em":
        one.set("class", "aligned")
    one.attrib.pop("rowspacing", None)
    if one.tag == "mover" and len(one) == 2 and one[1].tag == "mo":  # bars, hats and tildes sit on their letter
        one.set("accent", "true")
        one[1].set("stretchy", "false" if len("".join(one[0].itertext())) == 1 else "true")
    for place, child in reversed(list(enumerate(one))):  # names of functions stand off from what follows, unless it is a bracket
        name = child if len(child) == 0 else child[0] if child.tag in ("msub", "msup", "msubsup") else None
        if name is not None and name.tag in ("mi", "mo") and len(unescape(name.text or "")) > 1 and not one.tag.startswith(("msu", "mun", "mov")):
            name.tag = "mi"
            opens = place + 1 < len(one) and (one[place + 1].tag == "mrow" or unescape(one[place + 1].text or "") in BRACKETS)
            if not opens and place + 1 < len(one):
                one.insert(place + 1, ElementTree.Element("mspace", width=SPACES["thinmathspace"]))


def visit_math(self: Any, node: Any) -> None:
    """Write a formula within a line, for Sphinx."""
    from docutils.nodes import SkipNode

    self.body.append(f"{self.starttag(node, 'span', '', CLASS='math notranslate nohighlight')}{_told(self, node, display=False)}</span>")
    raise SkipNode


def visit_displaymath(self: Any, node: Any) -> None:
    """Write a formula on a line of its own, with its number or tag at the right, for Sphinx."""
    from docutils.nodes import SkipNode
    from sphinx.util.math import get_node_equation_number

    self.body.append(self.starttag(node, "div", "", CLASS="math notranslate nohighlight"))
    self.body.append(f'<div class="formula" tabindex="0">{_told(self, node, display=True)}</div>')
    if tag := split_tag(node.astext())[1] or (get_node_equation_number(self, node) if node["number"] else ""):
        self.body.append(f'<span class="eqno">({self.encode(tag)})')
        if node["number"]:
            self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append("</div>\n")
    raise SkipNode


def _told(self: Any, node: Any, *, display: bool) -> str:
    from sphinx.util import logging

    try:
        return to_mathml(split_tag(node.astext())[0], display=display)
    except ValueError as error:
        logging.getLogger(__name__).warning(str(error), location=node)  # the build takes it for an error
        return str(self.encode(node.astext()))
