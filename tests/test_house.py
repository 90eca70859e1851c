"""The picture of the house: what it shows is what the imports are."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import diffseg_lib
from diffseg_lib.book.plots.house import draw_house, house_facts
from diffseg_lib.support.imports import RULES

PACKAGE = Path(diffseg_lib.__file__).parent


def described(svg: Path) -> list:
    """The imports between wings that a drawn house says it shows."""
    [found] = re.findall(r"<dc:description>(.*?)</dc:description>", svg.read_text(), re.DOTALL)
    return json.loads(unescape(found))


def test_the_committed_house_is_the_one_that_stands():
    shown = {(a, b) for a, b, _ in described(PACKAGE.parent / "images" / "house.svg")}
    assert shown == {(a, b) for a, b, _ in house_facts(PACKAGE)["imports"]}, "draw it again: diffseg book figures images/house.svg"


def test_every_wing_is_drawn_with_its_size(tmp_path):
    drawn = draw_house(tmp_path / "house.svg", PACKAGE)
    text = drawn.read_text()
    assert set(house_facts(PACKAGE)["wings"]) == set(RULES)
    assert all(f">{wing}<" in text for wing in RULES)
    assert described(drawn) == house_facts(PACKAGE)["imports"]
