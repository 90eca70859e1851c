"""The book's thread: one drawing at the head of every chapter, one notation, toy numbers that are right, terms that show their meaning."""

from __future__ import annotations

import json
import re
from math import log
from pathlib import Path

import nbformat
import pytest
import torch

from diffseg_lib import complete_materialised, fuse
from diffseg_lib.attention import attention_layers
from diffseg_lib.book.plots.thread import EVERYTHING, PLACES, STATIONS, levels_of, thread, unet_drawing
from diffseg_lib.book.sphinx import with_meanings
from diffseg_lib.loading import load_backbone
from diffseg_lib.scoremaps import normalise

ROOT = Path(__file__).parent.parent
CHAPTERS = {path.stem: nbformat.read(path, 4) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
PROSE = {name: [cell.source for cell in book.cells if cell.cell_type == "markdown"] for name, book in CHAPTERS.items()}
DRAWN = re.compile(r"!\[(?P<alt>[^\]]+)\]\(\.\./images/thread/(?P<place>[\w-]+)\.svg\)")
# What the notation table has another sign or name for.
GONE = (r"\varepsilon", "latent/", "side 16", "told from chance", "gone on with", r"\theta_s", "z_\\varnothing")


def table(chapter: str, head: str) -> list[list[float]]:
    """The numbers of the table in a chapter whose first line begins with `head`, a list per row."""
    [text] = [one for one in PROSE[chapter] if f"\n| {head}" in one]
    lines = text[text.index(f"\n| {head}") + 1 :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip(" *").replace("−", "-") for cell in line.strip("|").split("|")] for line in lines]
    return [[float(cell) for cell in row if re.fullmatch(r"-?\d+\.\d+", cell)] for row in cells]


# -- the drawing


@pytest.mark.parametrize("place", PLACES)
def test_a_committed_drawing_is_the_one_that_the_code_makes(place):
    told = (ROOT / "images" / "thread" / f"{place}.svg").read_text(encoding="utf-8")
    assert told == thread(PLACES[place]), "draw it again: diffseg book figures images/thread"


def test_the_unet_that_is_drawn_is_the_one_that_is_shipped():
    backbone = load_backbone("pocket")
    levels = levels_of(json.loads(backbone.unet.to_json_string()), attention_layers(backbone.unet))
    assert (ROOT / "images" / "thread" / "where-attention-sits.svg").read_text(encoding="utf-8") == unet_drawing(*levels)


def test_every_station_is_drawn_and_only_the_asked_ones_are_marked():
    assert all(f">{name}<" in thread(EVERYTHING) for _, name, _ in STATIONS.values())
    assert "you are here" not in thread(EVERYTHING) and thread(["fused"]).count("you are here") == 1
    assert thread(["fused", "labels"]).count("#ffe3c7") == 2
    with pytest.raises(ValueError, match="nowhere.*expected some of picture"):
        thread(["nowhere"])


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_chapter_begins_with_the_drawing(chapter):
    found = DRAWN.search(PROSE[chapter][0])
    assert found, "its first cell shows no drawing of images/thread"
    assert found["place"] in PLACES and len(found["alt"].split()) >= 6


# -- prose


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_ends_with_three_sentences_and_its_questions_have_answers(chapter):
    text = "\n".join(PROSE[chapter])
    assert text.count("## In three sentences") == 1
    if "## Try it" in text:
        tries, answers = text.split("## Try it")[1].split(":::{dropdown} What to expect")
        assert len(re.findall("^- ", tries, re.M)) == len(re.findall("^- ", answers, re.M))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_keeps_to_the_notation(chapter):
    assert [one for one in GONE if one in "\n".join(PROSE[chapter])] == []


def test_toy_of_fusion():
    coarse, fine, fused = table("04_fusion", "pixel | 1")
    maps = {2: torch.tensor(coarse).view(1, 2, 2), 1: torch.tensor(fine).view(1, 2, 2)}
    assert fuse(maps, {2: 0.75, 1: 0.25}, (2, 2)).flatten().tolist() == pytest.approx(fused)


def test_toy_of_completion():
    matrix, (fused, spread, stretched) = torch.tensor(table("05_completion", "attends to")), table("05_completion", "map |")
    assert matrix.sum(-1).tolist() == pytest.approx([1, 1, 1])
    queries, keys = matrix.log().clamp(min=-100)[None, None] * 3**0.5, torch.eye(3)[None, None]  # whose softmax is the matrix
    done = complete_materialised(torch.tensor(fused).view(1, 1, 3), [queries], [keys])
    assert done.flatten().tolist() == pytest.approx(spread, abs=0.005)
    assert normalise(done).flatten().tolist() == pytest.approx(stretched, abs=0.005)


def test_toy_of_heads():
    first, second, mean = table("03_cross_attention", "a pixel, for")
    assert [sum(pair) / 2 for pair in zip(first, second, strict=True)] == pytest.approx(mean)
    assert all(row[2] == pytest.approx((row[0] + row[1]) / 2) for row in (first, second, mean))


def test_toy_of_emphasis():
    rows = table("07_prompts", "plus signs")
    for signs, (factor, number) in zip((-4, 0, 2, 8), rows, strict=True):
        assert (1.1**signs, 0.3 + 1.1**signs * 0.5) == pytest.approx((factor, number), abs=0.0005)


def test_toy_of_the_elbo():
    noise, house, fish, house_error, fish_error = table("09_elbo", "| pixel 1")
    for guess, error in ((house, house_error), (fish, fish_error)):
        squares = [(a - b) ** 2 for a, b in zip(noise, guess, strict=True)]
        assert [*squares, sum(squares)] == pytest.approx(error)


def test_toy_of_the_crf():
    both, apart = table("13_pseudo_labels", "labels | pixels |")
    alone = (-log(0.9) - log(0.4), -log(0.9) - log(0.6))
    assert both == pytest.approx([alone[0], alone[0]], abs=0.005)
    assert apart == pytest.approx([alone[1] + 1.0, alone[1] + 0.2], abs=0.005)


# -- terms


def test_a_term_carries_its_sentence_and_other_links_do_not():
    link = '<a class="reference internal" href="../glossary.html#term-IoU"><span class="xref std std-term">IoU</span></a>'
    other = '<a class="reference internal" href="x.html#term-IoU"><span class="std std-ref">IoU</span></a>'
    page = with_meanings(link + other, {"term-IoU": 'The "overlap".'})
    assert page.count("data-meaning") == 1 and page.endswith(other)
    assert 'data-meaning="The &quot;overlap&quot;." aria-description="The &quot;overlap&quot;."' in page
    assert with_meanings(link, {}) == link
