"""The attention explorer: small arrays that give the library's labels, and a page that computes what Python does."""

from __future__ import annotations

import re
from dataclasses import replace

import nbformat
import numpy as np
import pytest
import torch

from diffseg_lib.book.explorer import LARGEST, explorer_data, explorer_html, record_scene, replay, scene, show
from diffseg_lib.book.explorer.page import write_explorer
from diffseg_lib.book.explorer.scene import unpack
from diffseg_lib.book.run import all_notebooks
from diffseg_lib.cli.main import main
from diffseg_lib.pocket.scenes import photo_or_scene
from diffseg_lib.scoremaps import self_attention, upsample
from diffseg_lib.segmenter import DiffSegmenter
from diffseg_lib.support.paths import repository_root

QUIET = ("file:", "data:", "about:", "blob:")


@pytest.fixture(scope="module")
def pocket():
    return DiffSegmenter.from_profile("pocket")


@pytest.fixture(scope="module")
def packed(pocket):
    """Test scene 14 of the pocket world at two timesteps."""
    sample = photo_or_scene(index=14)
    return explorer_data(record_scene(pocket, sample.image, sample.classes, timesteps=[300], title="a ball </script> and a rocket"))


@pytest.fixture(scope="module")
def tiny(backbone):
    """A tiny pipeline at two timesteps whose mean is taken; latents of 10 x 16 pixels, which cells of 3 do not divide."""
    segmenter = DiffSegmenter(backbone).with_config(timesteps=(100, 300), iterations=2, final_norm="before", weights={1: 0.5, 2: 0.5})
    coarse = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    return record_scene(segmenter, coarse.repeat(8, 0).repeat(8, 1), ["house", "red fish"], timesteps=[500])


@pytest.mark.parametrize(("size", "cell"), [((4, 6), 1), ((4, 6), 2), ((5, 3), 2)])
def test_attention_between_cells_is_pooled_attention(size, cell):
    queries, keys = ([torch.randn(1, 2, size[0] * size[1], 4, generator=torch.Generator().manual_seed(i)) for i in two] for two in ((0, 1), (2, 3)))
    found = scene.pooled_attention([q[0] for q in queries], [k[0] for k in keys], size, cell)
    of = [(y // cell, x // cell) for y in range(size[0]) for x in range(size[1])]
    cells = sorted(set(of))
    member = torch.tensor([[float(one == place) for place in cells] for one in of])
    torch.testing.assert_close(found, member.T @ self_attention(queries, keys)[0] @ member / member.sum(0)[:, None])


def test_factors_give_the_probabilities_again():
    x, y = (torch.randn(40, 3, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    given = torch.softmax(x @ y.mT, 1)
    left, right = scene.factorise(given, rank=4)
    assert left.shape == right.shape == (40, 4)
    assert (torch.softmax(left @ right.mT, 1) - given).abs().sum(1).mean() < 0.02
    left, right = scene.factorise(given, rank=1)
    assert (torch.softmax(left @ right.mT, 1) - given).abs().sum(1).mean() > 0.1


@pytest.mark.parametrize("index", [14, 7])  # of two words, and of three, whose other timestep is kept as the mean over words
def test_small_arrays_give_the_librarys_labels(pocket, index, monkeypatch):
    sample = photo_or_scene(index=index)
    monkeypatch.setattr(scene, "LARGEST", 270_000)
    recorded = record_scene(pocket, sample.image, sample.classes, timesteps=[300])
    labels = pocket.segment(sample.image, sample.classes).labels
    assert np.array_equal(recorded.labels, labels)
    data = explorer_data(recorded)
    assert len(data) <= 270_000 < LARGEST and scene.unpack(data)[0]["own"] == [True, len(sample.classes) == 2]
    found = replay(data)
    assert (found.labels == labels).mean() == found.agreement == scene.unpack(data)[0]["agreement"]
    assert found.agreement >= 0.99


@pytest.fixture(scope="module")
def joint():
    """Test scene 14 seen by the pocket transformer, at two noise levels, two of whose blocks are weighted."""
    segmenter, sample = DiffSegmenter.from_profile("pocket-transformer", weights={3: 0.4, 5: 0.6}), photo_or_scene(index=14)
    return segmenter, record_scene(segmenter, sample.image, sample.classes, timesteps=[600], title="a ball and a rocket (transformer)")


def test_a_transformers_scene_is_of_blocks_and_gives_the_librarys_labels(joint):
    segmenter, recorded = joint
    header, arrays = unpack(data := explorer_data(recorded))
    blocks = len(segmenter.backbone.unet.transformer_blocks)
    assert header["unit"] == "block" and header["strides"] == list(range(blocks)) and [one["name"] for one in header["layers"]][-1] == f"block {blocks - 1}"
    assert {block: weight for block, weight in header["weights"].items() if weight} == {"3": 0.4, "5": 0.6}
    assert arrays["mean/0/3"].shape[1:] == tuple(header["finest"]) == (16, 16) and [one["size"] for one in header["resolutions"]] == [[16, 16]]
    assert replay(data).agreement >= 0.95, "completed by the weighted blocks alone, as the library does"


def test_a_scene_that_is_too_large_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(scene, "LARGEST", 4000)
    with pytest.raises(ValueError, match="2 classes at 3 timesteps take more than the 4 kB"):
        explorer_data(tiny)


def test_the_command_writes_one_file(pipeline_folder, picture, tmp_path, capsys):
    from PIL import Image

    Image.fromarray(picture).save(tmp_path / "photo.png")
    given = ["explore", str(tmp_path / "photo.png"), "--classes", "house", "--profile", str(pipeline_folder), "--timesteps", "300"]
    assert main([*given, "--out", str(tmp_path / "new" / "page.html")]) == 0
    assert "1 words at 2 timesteps" in capsys.readouterr().out
    text = (tmp_path / "new" / "page.html").read_text()
    assert text.count("Explorer.receive(0") == 1 and "src=" not in text.split("</style>")[1].split("<script>")[0]
    assert main([*given, "1000", "--out", str(tmp_path / "page.html")]) == 2 and main([*given, "--out", str(tmp_path)]) == 2
    assert "from 0 to 999" in (told := capsys.readouterr().err) and "is a folder" in told


def test_a_notebook_shows_the_page_in_a_frame(tiny):
    frame = show(tiny, height=700)._repr_html_()
    assert 'height="700"' in frame and "&lt;!DOCTYPE html&gt;" in frame and "<script" not in frame


# -- the page in a browser ------------------------------------------------------------------------


def opened(chromium, path, **options):
    chromium.open(path.as_uri(), **options)
    chromium.script("new Promise(done => { const wait = () => Explorer.found ? done(true) : setTimeout(wait, 20); wait(); })")
    assert chromium.complaints() == []
    return chromium


@pytest.mark.site
def test_the_page_computes_what_the_library_does(chromium, tiny, packed, joint, tmp_path, monkeypatch):
    transformed = explorer_data(joint[1])
    monkeypatch.setattr(scene, "GRID", 6)
    for data in (packed, transformed, explorer_data(tiny), explorer_data(replace(tiny, scale="none", iterations=0))):
        (tmp_path / "page.html").write_text(explorer_html(data))
        expected, header = replay(data), unpack(data)[0]
        opened(chromium, tmp_path / "page.html")
        for name in ("fused", "completed"):
            found = chromium.script(f"Explorer.found.{name}.map(map => Array.from(map))")
            np.testing.assert_allclose(found, getattr(expected, name).flatten(1), atol=2e-6)
        labels = np.array(chromium.script("Array.from(Explorer.found.labels)")).reshape(expected.labels.shape)
        # min-max stretches what rounding moves: a value and both ends of its map, of two maps; all pixels that are decided by more are equal
        flat = expected.completed.flatten(1)
        slack = 6 * float((np.abs(np.array(found) - flat.numpy()).max(1) / (flat.amax(1) - flat.amin(1)).numpy()).max())
        scores = upsample(expected.completed, expected.labels.shape, header["final_norm"])
        first, second = torch.cat([scores, torch.full_like(scores[:1], header["threshold"])]).topk(2, 0).values
        decided = (first - second > slack).numpy()
        assert decided.mean() > 0.9 and (labels == expected.labels)[decided].all() and len(np.unique(labels)) > 1


@pytest.mark.site
def test_mouse_touch_and_keys_move_the_pixel_and_sliders_the_labels(chromium, packed, tmp_path):
    page = write_explorer(tmp_path, [packed, packed])
    opened(chromium, page, width=1280)
    place = "[Explorer.state.x, Explorer.state.y]"
    box = chromium.script("(() => { const b = document.getElementById('picture').getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()")

    def at(x: float, y: float) -> dict[str, float]:
        return {"x": box[0] + x * box[2], "y": box[1] + y * box[3]}

    chromium.call("Input.dispatchMouseEvent", type="mouseMoved", **at(0.25, 0.5))
    assert chromium.script(place) == [32, 64]
    chromium.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[at(0.75, 0.25)])
    chromium.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert chromium.script(place) == [96, 32]
    chromium.script("document.getElementById('picture').focus()")
    chromium.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft", code="ArrowLeft")
    chromium.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowDown", code="ArrowDown", modifiers=8)
    assert chromium.script(place) == [95, 42]
    said = chromium.script("new Promise(done => setTimeout(() => done(document.getElementById('live').textContent), 600))")
    assert said.startswith("Column 96, row 43: ") and "Scores: ball 0." in said and "It attends most" in said
    labels = "Explorer.found.labels.reduce((sum, v) => sum + (v > 0), 0)"
    before = chromium.script(labels)
    for control in ("#threshold", "#rounds", "#stop", "#cross input"):
        sent = (
            "new Promise(done => { const e = document.querySelector(CONTROL); e.value = +e.value > +e.min ? e.min : e.max; e.dispatchEvent(new Event('input'));"
        )
        chromium.script(sent.replace("CONTROL", repr(control)) + " setTimeout(() => done(true), 300); })")
        assert chromium.script(labels) != before, control
        chromium.script("document.getElementById('reset').click()")
        assert chromium.script(labels) == before, control
    chromium.script("document.querySelectorAll('.wordrow input')[1].click()")
    chromium.script("new Promise(done => setTimeout(() => done(true), 100))")
    assert chromium.script("document.querySelector('em.word').textContent") == "rocket"


@pytest.mark.site
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_is_whole_labelled_and_asks_no_network(chromium, packed, tmp_path, width, dark):
    page = write_explorer(tmp_path, [packed, packed])
    opened(chromium, page, width=width, dark=dark)
    assert [url for url in chromium.requests() if "scene-1" in url] == []  # a scene is loaded when it is opened
    chromium.script("document.querySelector('details').open = true")
    assert chromium.script("document.documentElement.scrollWidth") <= width
    cut = "[...document.querySelectorAll('main *')].filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1 && !e.closest('.sr, .frame, .bar'))"
    assert chromium.script(f"{cut}.map(e => e.outerHTML.slice(0, 100))") == []
    bare = "[...document.querySelectorAll('input, select, button')].filter(e => !e.labels?.length && !e.ariaLabel && !e.textContent.trim())"
    assert chromium.script(f"{bare}.map(e => e.outerHTML)") == []
    assert chromium.script("[...document.querySelectorAll('canvas[role]')].filter(e => !e.ariaLabel).length") == 0
    shade = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).reduce((a, b) => a + b)"
    assert (chromium.script(shade) < 200) == dark
    chromium.script("(() => { const s = document.getElementById('scene'); s.value = 1; s.dispatchEvent(new Event('change')); })()")
    chromium.script("new Promise(done => { const wait = () => Explorer.current === 1 ? done(true) : setTimeout(wait, 20); wait(); })")
    assert [url for url in chromium.requests() if not url.startswith(QUIET)] == [] and chromium.complaints() == []


# -- views, and the page around the explorer -------------------------------------------------------

SEEN = """[...document.querySelectorAll('section[data-in], #stop, #cross, .weight, #layers, #heads, #rounds, #threshold, #fused, #completed, #result')]
  .filter(e => e.checkVisibility() && e.offsetParent).map(e => e.id || e.getAttribute('aria-labelledby') || e.className)"""
SHOWN = {
    "attention": {"s1", "s2", "cross"},
    "layers": {"s2", "stop", "layers", "heads"},
    "fusion": {"s2", "cross", "weight", "s3", "threshold", "fused", "result"},
    "completion": {"s1", "s3", "rounds", "threshold", "fused", "completed", "result"},
    "timesteps": {"s2", "stop", "cross", "s3", "threshold", "fused", "completed", "result"},
}
VIEW = re.compile(r'explorer/index\.html#view=(\w+)"')


def linked() -> dict[str, set[str]]:
    """The views that each chapter's markdown asks for."""
    found = {}
    for path in all_notebooks():
        text = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")
        if views := set(VIEW.findall(text)):
            found[path.stem] = views
    return found


def test_chapters_ask_for_views_that_there_are_and_fold_them():
    assert set().union(*linked().values()) == set(SHOWN)
    assert set(linked()) == {"00_what_you_need", "03_cross_attention", "04_fusion", "05_completion", "08_timesteps"}
    for path in all_notebooks():
        for cell in nbformat.read(path, 4).cells:
            for frame in re.findall(r"<iframe[^>]*explorer/index\.html[^>]*>", cell.source):
                assert 'title="Attention explorer' in frame
                folded = " data-src=" in frame and '<details class="explorer"><summary>' in cell.source  # a closed one with src would load all the same
                assert folded or 'loading="lazy"' in frame


@pytest.mark.site
@pytest.mark.parametrize(("view", "width"), [*((view, 1280) for view in SHOWN), *((view, 390) for view in SHOWN), ("nonsense", 1280)])
def test_a_deep_link_opens_one_view(chromium, packed, tmp_path, view, width):
    page = write_explorer(tmp_path, [packed])
    chromium.open("about:blank")
    chromium.open(f"{page.as_uri()}#view={view}", width=width, height=844)
    chromium.script("new Promise(done => { const wait = () => Explorer.found ? done(true) : setTimeout(wait, 20); wait(); })")
    assert chromium.complaints() == []
    everything = set().union(*SHOWN.values()) - {"layers", "heads"}  # which are folded
    narrow = {"result"} if width == 390 else set()  # the labels stand at the top there
    assert set(chromium.script(SEEN)) == SHOWN.get(view, everything) - narrow
    assert chromium.script("document.documentElement.scrollWidth") <= width
    assert chromium.script("[...document.querySelectorAll('em.word')].every(e => e.textContent)")
    assert chromium.script("document.getElementById('reset').disabled")  # it begins where it goes back to
    assert chromium.script("Explorer.state.rounds") == (0 if view == "fusion" else 1)
    if view in SHOWN:
        button = "document.getElementById('whole')"
        chromium.script(f"({button}.focus(), {button}.click())")
        assert set(chromium.script(SEEN)) - {"layers", "heads"} == everything - narrow
        assert chromium.script(f"document.activeElement === {button} && {button}.textContent") == "Show this step alone"


@pytest.mark.site
@pytest.mark.parametrize(("asked", "shown"), [("1", 1), ("7", 0), ("length", 0)])
def test_a_deep_link_opens_a_scene(chromium, packed, joint, tmp_path, asked, shown):
    page = write_explorer(tmp_path, [packed, explorer_data(joint[1])])
    chromium.open("about:blank")
    chromium.open(f"{page.as_uri()}#scene={asked}", width=390, height=844)
    chromium.script("new Promise(done => { const wait = () => Explorer.found ? done(true) : setTimeout(wait, 20); wait(); })")
    assert chromium.complaints() == [] and chromium.script("Explorer.current") == shown
    captions = chromium.script("[...document.querySelectorAll('#cross figcaption > b')].map(b => b.textContent)")
    assert all(one.startswith("block " if shown else "stride ") for one in captions) and len(captions) == (8 if shown else 4)
    assert chromium.script("document.documentElement.scrollWidth") <= 390


def inside(chromium, source):
    """The value of an expression in the page's frame, which scripts of the page itself may not read."""
    [frame] = chromium.call("Page.getFrameTree")["frameTree"]["childFrames"]
    world = chromium.call("Page.createIsolatedWorld", frameId=frame["frame"]["id"])["executionContextId"]
    result = chromium.call("Runtime.evaluate", expression=source, contextId=world, returnByValue=True, awaitPromise=True)
    return result["result"].get("value")


SHADE = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).reduce((a, b) => a + b) < 200"
PAUSE = "new Promise(done => setTimeout(() => done(true), 500))"


@pytest.mark.site
@pytest.mark.parametrize("system", [False, True])  # whether the system is dark; the page's button decides against it
def test_a_folded_explorer_loads_when_opened_and_has_the_pages_theme(chromium, packed, tmp_path, system):
    write_explorer(tmp_path / "explorer", [packed])
    script = (repository_root() / "_static" / "book.js").as_uri()
    text = f'<!doctype html><html data-theme="{"light" if system else "dark"}"><meta charset="utf-8"><script src="{script}"></script><main>'
    text += '<details class="explorer"><summary>Look</summary><iframe data-src="explorer/index.html#view=completion" title="Attention explorer"></iframe>'
    (tmp_path / "page.html").write_text(f"{text}</details></main></html>")
    chromium.open((tmp_path / "page.html").as_uri(), dark=system)
    chromium.script(PAUSE)
    assert [url for url in chromium.requests() if url.endswith((".js", ".html"))] == [(tmp_path / "page.html").as_uri(), script]
    chromium.script("document.querySelector('summary').focus()")
    for kind in ("keyDown", "keyUp"):
        chromium.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, **({"text": "\r"} if kind == "keyDown" else {}))
    chromium.script(PAUSE)
    assert len([url for url in chromium.requests() if "scene-0" in url]) == 1
    assert inside(chromium, "document.getElementById('body').hidden") is False
    assert inside(chromium, SHADE) == (not system)
    for theme in ("light", "dark", "light"):
        chromium.script(f"document.documentElement.dataset.theme = {theme!r}")
        chromium.script(PAUSE)
        assert inside(chromium, SHADE) == (theme == "dark")
    assert chromium.complaints() == [] and [url for url in chromium.requests() if not url.startswith(QUIET)] == []
