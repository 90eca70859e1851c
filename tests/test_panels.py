"""Figures of several panels: each draws what it was given, from plain data."""

from __future__ import annotations

import base64
import io
import re
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from diffseg_lib.book import plots

PIXELS = np.full((8, 12, 3), 200, np.uint8)
TRUTH = np.zeros((8, 12), int)
TRUTH[2:6, 1:5] = 1
TRUTH[2:6, 7:11] = 2
SAMPLE = SimpleNamespace(image=PIXELS, truth=TRUTH, classes=("house", "fish"))


def one(value, label="", **more):
    return SimpleNamespace(label=label, value=value, ci95=(value - 1, value + 2), **more)


ROWS = {"ours": one(80.0, "our maps"), "rival": one(60.0, "the rival's")}
RUN = SimpleNamespace(rows=ROWS, effects={"ours_minus_rival": one(20.0, "ours minus the rival's"), "ours_minus_none": one(5.0, "ours minus none")})


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()  # nothing that was put on a figure may fail when it is drawn
    plt.close("all")


def titles(figure):
    return [ax.get_title() or ax.get_title(loc="left") for ax in figure.axes]


def rows(panels):
    return [[panel.title for panel in row] for row in panels.rows]


def test_rows_of_every_run_stand_beside_each_other_and_a_missing_run_says_so():
    figure = plots.study_rows({"this page": RUN, "larger run": None}, {"rows alone": ROWS, "again": ROWS}, strong="ours")
    assert titles(figure) == ["this page", "larger run", "rows alone", "again"]
    first, missing = figure.axes[:2]
    assert [bar.get_width() for bar in first.patches] == [80, 60] and [text.get_text() for text in missing.texts] == ["not run"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["our maps", "the rival's"]
    assert first.patches[0].get_facecolor() != first.patches[1].get_facecolor()


def test_wrong_pixels_are_outlined_in_the_picture_and_in_the_mask():
    wrong = np.zeros((8, 12), bool)
    wrong[3:6, 7:10] = True
    found = plots.outlined_mistakes([PIXELS], [TRUTH], [np.where(wrong, 1, TRUTH)], [wrong], ["house", "fish"], ["thing called another thing"])
    assert rows(found) == [["the picture", "truth", "the mask"]] and "outlined: 9% of it" in found.rows[0][2].alt
    shown = found.rows[0][0].pixels
    assert (shown == 255).all(2).any() and (shown == 0).all(2).any() and (found.rows[0][1].pixels != 255).any(2).all()


def test_effects_are_named_by_their_labels_in_the_order_asked_for():
    [ax] = plots.study_effects({"this page": RUN, "larger run": None}).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["ours minus the rival's", "ours minus none"]
    [ax] = plots.study_effects({"this page": RUN}, ["ours_minus_none"]).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["ours minus none"] and list(ax.lines[0].get_xdata()) == [5.0]


def test_charts_of_classes_leave_out_what_does_not_occur():
    [matrix] = plots.class_confusion(["background", "house", "fish"], [[8, 2, 0], [1, 3, 0], [0, 0, 0]]).axes
    assert [label.get_text() for label in matrix.get_yticklabels()] == ["background", "house"]
    [bars] = plots.class_bars({"background": 70.0, "house": 90.0, "fish": None}).axes
    assert [label.get_text() for label in bars.get_yticklabels()] == ["house", "background"]  # from the highest down


def test_measures_are_charts_one_below_the_other():
    figure = plots.measure_bars({"a, %": ROWS, "b, %": ROWS, "c, %": ROWS}, "ours")
    assert [ax.get_xlabel() for ax in figure.axes] == ["a, %", "b, %", "c, %"]
    assert [ax.get_yticklabels()[0].get_text() for ax in figure.axes] == ["our maps"] * 3


def test_claims_that_were_not_measured_are_not_drawn():
    rows = [SimpleNamespace(claim=name, effect=effect, ci95=(1, 3), verdict="reproduced") for name, effect in (("a", 2.0), ("b", None))]
    [ax] = plots.claim_forest(rows).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a"]


def test_recall_is_drawn_a_dot_a_row_and_size():
    sizes = {name: {"small": one(50.0 + i, "below 2 %", objects=3), "large": one(90.0, "above 8 %", objects=7)} for i, name in enumerate(ROWS)}
    [ax] = plots.recall_by_size(sizes, {"ours": "our maps", "rival": "the rival's"}).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["below 2 % of it\n(3 objects)", "above 8 % of it\n(7 objects)"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["our maps", "the rival's"]


def test_curves_of_the_least_probability_end_where_they_are_told():
    points = [SimpleNamespace(sure=s, kept=1 - s, miou=60 + 10 * s) for s in (0.0, 0.5, 0.9)]
    [ax] = plots.sure_curves({"bare": points}).axes
    assert list(ax.lines[0].get_xdata()) == [100, 50] and [text.get_text() for text in ax.texts] == ["0.5"]


def test_losses_stand_beside_what_came_of_them():
    left, right = plots.losses_and_rows({"ours": [(1, 3.0), (2, 1.0)]}, {"ours": ROWS["ours"]}, "val").axes
    assert list(left.lines[0].get_ydata()) == [3.0, 1.0] and right.get_title(loc="left") == "val"
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["our maps"]


def test_galleries_have_a_row_a_picture_and_the_picture_beside_its_labels():
    maps = {"before": TRUTH, "after": np.minimum(TRUTH, 1)}
    found = plots.label_rows([PIXELS, PIXELS], [maps, maps], SAMPLE.classes, ["gains", "loses"])
    assert rows(found) == [["the picture", "before", "after"]] * 2 and found.row_titles == ["gains", "loses"]
    assert rows(plots.truth_and_found([SAMPLE], [SimpleNamespace(labels=TRUTH, words=())], SAMPLE.classes)) == [
        ["the picture", "truth: house, fish", "asked for: no words"]
    ]
    scores = {"ours": np.linspace(0, 1, 96).reshape(8, 12)}
    assert rows(plots.score_rows([SAMPLE], [scores])) == [["“house” in", "ours"]]
    assert rows(plots.label_comparison([SAMPLE], [maps])) == [["house, fish", "truth", "before", "after"]]


def test_a_map_gallery_starts_with_the_picture_and_its_truth():
    maps = {f"row {i}": np.random.default_rng(i).random((8, 12)) for i in range(4)}
    found = plots.map_gallery(PIXELS, TRUTH, SAMPLE.classes, maps, columns=3)
    assert rows(found) == [["“house” in", "truth", *maps]] and found.columns == 3


def test_edits_stand_beside_the_picture_and_its_mask():
    task = SimpleNamespace(pixels=PIXELS, mask=TRUTH == 1, word="house", new="fish")
    found = plots.edit_rows([task, task], [{"plain": PIXELS}] * 2)
    assert rows(found) == [["before", "mask of “house”", "plain"]] * 2 and found.row_titles == ["“house” to “fish”"] * 2
    assert rows(plots.titled_pictures({"before": PIXELS, "after": PIXELS})) == [["before", "after"]]


def test_words_that_were_asked_for_have_a_row_each():
    score = np.linspace(0, 1, 96).reshape(8, 12)
    asked = {"true": (("house",), {"house": score}, np.minimum(TRUTH, 1)), "all": (("house", "fish"), {"fish": score, "house": score}, TRUTH)}
    found = plots.word_rows(PIXELS, asked, TRUTH, SAMPLE.classes)
    assert rows(found) == [["the picture", "truth"], ["labels", "score of “house”"], ["labels", "score of “fish”", "score of “house”"]]
    assert found.row_titles == ["what is there", "true", "all"]


def test_every_stage_of_a_photo_is_shown_and_a_photo_without_words_says_so():
    shown = SimpleNamespace(sample=SimpleNamespace(id="a.jpg", image=PIXELS, classes=("house",)), caption="a house", word="house", labels=TRUTH.clip(0, 1))
    shown.stages = {"stride 8": np.eye(2), "fused": np.eye(4)}
    nothing = SimpleNamespace(sample=SimpleNamespace(id="b.jpg", image=PIXELS, classes=()), caption="", word="", labels=0 * TRUTH, stages={})
    found = plots.stage_rows([shown, nothing])
    assert rows(found) == [["the photo", "labels", "“house”, stride 8", "“house”, fused"], ["the photo", "the caption names nothing that the model knows"]]
    assert found.row_titles == ["a.jpg: “a house”", "b.jpg"]


def test_a_figure_of_panels_is_html_with_all_it_needs_and_one_picture():
    found = plots.found_in(PIXELS, np.stack([np.eye(8, 12)] * 2), TRUTH, SAMPLE.classes)
    bundle = found._repr_mimebundle_()
    page = bundle["text/html"]
    assert page.count("<img") == 4 and page.count("data:image/") == 4 and "http" not in page and "<script" not in page
    assert all(len(alt.split()) >= 4 for alt in re.findall(r'alt="(.*?)"', page))
    assert [page.count(f">{name}<") for name in SAMPLE.classes] == [2, 2]  # on its region and in the key
    assert f"background:{plots.class_colours(SAMPLE.classes)['fish']}" in page and found.bar() == ("0", "1")
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/jpeg"]))).width == 518  # 7.2 inches
    assert "0x" not in bundle["text/plain"]


def test_maps_of_one_scale_have_its_ends_at_the_bar_and_others_their_own():
    values = np.eye(4)
    assert plots.tiles([[values, values]]).bar() == ("0", "1")
    assert plots.tiles([[values, 2 * values]]).bar() == ("each map's least value", "its greatest")
    assert plots.tiles([[PIXELS]]).bar() == ("", "")


def test_what_is_wiped_or_slid_stands_side_by_side_without_scripts():
    wiped = plots.wipe(plots.picture(PIXELS, "before"), plots.picture(PIXELS, "after"))
    assert rows(wiped) == [["before", "after"]] and 'data-way="wipe"' in wiped.html() and "hidden" not in wiped.html().replace("overflow: hidden", "")
    slid = plots.map_strip(None, "house", {"t = 1": np.eye(4), "t = 2": np.eye(4)}, TRUTH == 1, way="slide")
    assert rows(slid) == [["t = 1", "t = 2"]] and 'data-way="slide"' in slid.html()


def test_photos_are_shown_no_larger_than_a_page_needs():
    panel = plots.picture(np.zeros((1200, 800, 3), np.uint8), "large")
    assert panel.pixels.shape == (384, 256, 3)
    assert plots.labels(np.zeros((1200, 800), int), ["house"]).pixels.shape == (384, 256, 3)


def test_times_leave_out_what_they_are_compared_with():
    spread = {"median": 1.1, "range": [1.0, 1.2]}
    tables = {"1": {"bare": {"ratio": spread}, "ours": {"ratio": spread}}}
    [ax] = plots.ratio_panels(tables).axes
    assert ax.get_title(loc="left") == "C = 1" and [label.get_text() for label in ax.get_yticklabels()] == ["ours"]
    [ax] = plots.stage_bars({"small": {"UNet": {"median": 3.0}, "text": {"median": 1.0}}}).axes
    assert [bar.get_width() for bar in ax.patches] == [0.75, 0.25]
    [ax] = plots.bar_figure({"a": 1.0, "b": 2.0}, "minutes").axes
    assert ax.get_xlabel() == "minutes" and len(ax.patches) == 2


def test_methods_are_numbered_by_cost_and_named_below():
    rows = {"ours": one(80.0, "our maps", seconds=0.2), "rival": one(60.0, "the rival's", seconds=0.9)}
    figure = plots.accuracy_against_cost({"voc": rows, "context": {"rival": rows["rival"]}}, strong=("ours",))
    assert titles(figure) == ["voc", "context"]
    assert [[text.get_text() for text in ax.texts] for ax in figure.axes] == [["1", "2"], ["2"]]
    assert "1 our maps" in figure.texts[0].get_text() and any("2 the rival's" in text.get_text() for text in figure.texts)
    long = rows | {"pair": SimpleNamespace(label="a name that is much too long for one line of the list below a chart", value=50, ci95=None, seconds=0.5)}
    [listed] = plots.accuracy_against_cost({"voc": long}).texts
    assert len(listed.get_text().splitlines()) > len(long)
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [float(line.get_xdata()[0]) for line in marks] == [0.2, 0.9] and marks[0].get_color() != marks[1].get_color()


def test_numbers_of_a_dense_chart_cover_nothing():
    import matplotlib.pyplot as plt
    from matplotlib.text import Text

    rows = {f"m{i}": one(80.0 + 0.3 * (i % 3), f"method {i}", seconds=0.2 + 0.004 * i) for i in range(7)} | {"far": one(20.0, "far", seconds=0.9)}
    figure = plots.accuracy_against_cost({"voc": rows})
    figure.canvas.draw()
    [ax] = figure.axes
    boxes = [Text.get_window_extent(text).shrunk(0.9, 0.9) for text in ax.texts]  # of the text without its line
    assert len(boxes) == 8 and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    centres = [ax.transData.transform((row.seconds, row.value)) for row in rows.values()]
    assert not any(box.contains(*centre) for box in boxes for centre in centres)
    assert [bool(text.arrow_patch) for text in ax.texts][-1] is False and any(text.arrow_patch for text in ax.texts)
    plt.close(figure)


def test_labels_of_a_data_set_are_named_by_its_classes_and_void_is_white():
    found = {"ours": np.where(TRUTH == 2, 3, TRUTH)}
    shown = plots.label_comparison([SAMPLE], [found], ["house", "fish", "car"], 2)
    [[_, truth, ours]] = shown.rows
    assert shown.columns == 2 and list(truth.key) == ["house", "fish"] and list(ours.key) == ["house", "car"]
    assert shown.key() == plots.class_colours(["house", "fish", "car"])
    [[_, _, void]] = plots.label_comparison([SAMPLE], [{"ours": np.where(TRUTH == 2, 255, TRUTH)}], ["house", "fish"]).rows
    assert list(void.key) == ["house"] and (void.pixels == 255).all(-1).any()
