"""The pictures of the chapters: what is drawn is what was given."""

from itertools import combinations

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from diffseg_lib.book import plots
from diffseg_lib.book.plots.colours import BACKGROUND
from diffseg_lib.pocket.world import CLASS_NAMES

PIXELS = np.full((8, 12, 3), 200, np.uint8)
FOUND = np.zeros((8, 12), int)
FOUND[:, :4], FOUND[:, 8:] = 1, 2


def rgb(colour):
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    figure.canvas.draw()  # nothing that was put on the Axes may fail when it is drawn
    plt.close(figure)


def test_every_function_gives_its_axes_back(ax):
    assert plots.bars(ax, {"a": 1.0}) is ax
    assert plots.curve(ax, [1, 2], [3, 4]) is ax
    assert plots.name_rows(ax, ["a"]) is ax


def test_bare_takes_ticks_and_frame_away(ax):
    plots.bare(ax, "a title")
    assert ax.get_title() == "a title"
    assert not len(ax.get_xticks()) and not len(ax.get_yticks())
    assert not any(spine.get_visible() for spine in ax.spines.values())


def test_heat_spans_the_map_or_the_given_limits():
    values = np.array([[0.2, 0.4], [0.6, 0.8]])
    own, given = plots.heat(values), plots.heat(values, limits=(0, 1))
    assert own.limits == (0.2, 0.8) and given.limits == (0, 1)
    ramp = (255 * matplotlib.colormaps[plots.MAPS]([0.0, 1.0])[:, :3]).round()
    assert (own.pixels[0, 0] == ramp[0]).all() and (own.pixels[-1, -1] == ramp[1]).all()
    assert not (given.pixels[0, 0] == ramp[0]).all()


def test_an_outline_is_drawn_at_the_picture_s_size_and_the_means_are_told():
    inside = np.zeros((32, 32), bool)
    inside[8:24, 8:24] = True
    coarse = np.zeros((4, 4))
    coarse[1:3, 1:3] = 1
    panel = plots.heat(coarse, "coarse", inside)
    assert panel.pixels.shape == (256, 256, 3)
    white = (panel.pixels == 255).all(-1)
    rows, columns = np.nonzero(white)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (64, 191, 64, 191) and not white[100:150, 100:150].any()
    assert "mean 1 inside the outline, 0 outside" in panel.alt


def test_labels_are_flat_opaque_and_named_where_they_are():
    found = FOUND.copy()
    found[0, 5] = 255
    panel = plots.labels(found, ["house", "fish"], "found")
    colours = plots.class_colours(["house", "fish"])
    assert (panel.pixels[3, 1] == rgb(colours["house"])).all() and (panel.pixels[3, 10] == rgb(colours["fish"])).all()
    assert (panel.pixels[3, 6] == rgb(BACKGROUND)).all() and (panel.pixels[0, 5] == 255).all()
    assert len(np.unique(panel.pixels.reshape(-1, 3), axis=0)) == 4  # no mixture with a picture
    assert [name.text for name in panel.names] == ["house", "fish"] and panel.key == colours
    assert panel.names[0].x < 0.5 < panel.names[1].x
    assert panel.alt == "Labels, found: house 33%, fish 33% of the picture"


def test_a_class_has_one_colour_whatever_it_is_shown_with():
    whole = plots.class_colours(CLASS_NAMES)
    assert len(set(whole.values())) == len(CLASS_NAMES)
    for i, name in enumerate(CLASS_NAMES):
        assert plots.class_colours([*CLASS_NAMES[i:], "zebra"])[name] == plots.class_colours([name])[name] == whole[name]
    others = [f"class {i}" for i in range(16)]
    assert len(set(plots.class_colours(others).values())) == 16  # a colour that is taken is not taken again while one is free


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
VISION = {
    "usual": np.eye(3),
    "without red cones": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "without green cones": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
}


def lab(linear: np.ndarray) -> np.ndarray:
    """Linear sRGB in [0, 1] to CIE Lab, white D65."""
    xyz = linear @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


@pytest.mark.parametrize("vision", VISION)
def test_colours_of_classes_are_told_apart(vision):
    """A difference of 10 in Lab is plain to see; of the background they differ as well."""
    shown = np.array([rgb(colour) for colour in (*plots.class_colours(CLASS_NAMES).values(), BACKGROUND)]) / 255
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    seen = lab((linear @ VISION[vision].T).clip(0, 1))
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 10


def test_bars_have_their_lengths_and_whiskers_first_on_top(ax):
    plots.bars(ax, {"equal": 40.0, "chosen": 50.0}, {"equal": (38.0, 42.0), "chosen": (47.0, 53.0)}, "mean IoU, %", strong="chosen")
    assert [bar.get_width() for bar in ax.patches] == [40, 50]
    assert [tuple(line.get_xdata()) for line in ax.lines] == [(38, 42), (47, 53)]
    assert [text.get_text() for text in ax.texts] == ["40.0", "50.0"]
    assert ax.yaxis_inverted() and ax.get_xlabel() == "mean IoU, %"
    assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor()


def test_a_curve_carries_its_intervals_as_a_band(ax):
    plots.curve(ax, [1, 2], [5.0, 6.0], "a", intervals=[(4.0, 5.5), (5.0, 8.0)])
    (band,) = ax.collections
    corners = {tuple(v) for v in band.get_paths()[0].vertices}
    assert {(1, 4.0), (1, 5.5), (2, 5.0), (2, 8.0)} <= corners
    assert to_rgb(band.get_facecolor()[0]) == to_rgb(ax.lines[0].get_color())


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda ax: plots.picture(PIXELS[..., 0]), "expected H x W x 3"),
        (lambda ax: plots.heat(np.zeros((2, 4, 4))), "index its class first"),
        (lambda ax: plots.heat(np.array([[0.0, np.nan]])), "not finite"),
        (lambda ax: plots.labels(PIXELS, ["house", "fish"]), "expected one map"),
        (lambda ax: plots.bars(ax, {"a": 1.0, "b": 2.0}, {"a": (0.0, 2.0)}), "no interval for b"),
        (lambda ax: plots.curve(ax, [1, 2], [3, 4], intervals=[(0, 1)]), "1 intervals for 2 points"),
    ],
)
def test_errors_say_what_was_expected(ax, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(ax)


def test_a_study_is_drawn_beside_its_json(tmp_path):
    import json

    from diffseg_lib.book.plots import draw

    row = {"value": 50.0, "ci95": [40.0, 60.0]}
    effect = {"value": 5.0, "ci95": [1.0, 9.0]}
    (tmp_path / "some.json").write_text(json.dumps({"profile": "pocket", "result": {"rows": {"a": row}, "effects": {"a_minus_b": effect}, "images": 3}}))
    assert draw(tmp_path) == [tmp_path / "some.png"]
    assert (tmp_path / "some.png").stat().st_size > 1000


def test_every_committed_study_has_its_picture():
    from diffseg_lib.support.paths import data_dir

    runs = list((data_dir() / "results").glob("*/*.json"))
    assert runs and [path.name for path in runs if not path.with_suffix(".png").is_file()] == []


def test_costs_by_the_number_of_classes_are_drawn_with_and_without_a_study():
    from types import SimpleNamespace

    ways = {"a row a class": {"ratio": {"median": 4.4}}, "side prompts": {"ratio": {"median": 1.1}}}
    grown = {"rows": {"4": ways, "60": ways}}
    effect = SimpleNamespace(label="", value=-0.7, ci95=(-1.9, 0.4))
    result = SimpleNamespace(effects={f"voc_true_{way}": effect for way in ("joint", "side")})
    above, below = plots.cost_by_classes(grown, result, ("voc",)).axes
    assert [line.get_label() for line in above.get_lines()] == list(ways) and list(above.get_lines()[1].get_ydata()) == [1.1, 1.1]
    assert [tick.get_text() for tick in below.get_yticklabels()] == ["voc: joint", "voc: side"]
    assert len(plots.cost_by_classes(grown).axes) == 1


def test_long_names_of_rows_go_on_in_a_line_that_the_chart_grows_by():
    from types import SimpleNamespace

    from diffseg_lib.book.plots import axes

    effects = {name: SimpleNamespace(label=name, value=1.0, ci95=(0.0, 2.0)) for name in ("short", "x" * 30 + " " + "y" * 30)}
    long, short = (plots.study_effects({"run": SimpleNamespace(effects={n: effects[n] for n in names})}) for names in (effects, ["short"]))
    assert [tick.get_text().count("\n") for tick in long.axes[0].get_yticklabels()] == [0, 1]
    assert long.get_figwidth() == short.get_figwidth() == axes.NARROW and long.get_figheight() > 2 * (short.get_figheight() - 0.75)
