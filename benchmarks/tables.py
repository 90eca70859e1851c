"""A benchmark's JSON as the tables of the chapter on speed (pandas)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from .cases import OURS
from .goals import DATASETS, Goal, hours

SAID = {True: "met", False: "missed", None: "not run"}


def sources(facts: Mapping[str, Any]) -> str:
    """Which machine measured, and a line a command: which tables it measured, at which commit."""
    lines = [f"{facts['machine']}, {facts['threads']} threads, {facts['dtype']}"]
    by_run: dict[tuple[str, str], list[str]] = {}
    for name, how in facts["measured"].items():
        by_run.setdefault((how["command"], str(how["commit"])[:8]), []).append(name)
    return "\n".join([*lines, *(f"{', '.join(names)}: {command}, commit {commit}" for (command, commit), names in by_run.items())])


def goals_table(goals: Sequence[Goal]) -> pd.DataFrame:
    """Every goal that was measured, in full, with its figure and whether it is met."""
    judged = {f"{one.what}: {one.wanted}": f"{_short(one.figure)}, {SAID[one.met]}" for one in goals if one.figure is not None}
    return pd.Series(judged, name="found").to_frame().rename_axis(columns="goal")


def memory_table(peaks: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Peaks of memory above the loaded model, MiB, by case and number of classes; nothing stands where a case was not measured."""
    columns = {f"C = {k}, MiB": {name: f"{row['median']:,.1f}" for name, row in rows.items() if row is not None} for k, rows in peaks.items()}
    return pd.DataFrame(columns).fillna("").rename(index={OURS: "ours"})


def sizes_table(sizes: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Time against the bare forward by the image's size, and what is kept of the self-attention."""
    lines = {}
    for size, row in sizes.items():
        line = {"ratio": f"{row['ratio']['median']:.2f}", "range": _range(row["ratio"], 2)}
        lines[size] = line | {"bare forward, s": _short(row["bare_seconds"]["median"], 1), "kept": row["kept"]}
    return pd.DataFrame(lines).T


def images_table(images: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Seconds an image by the number of images in a row."""
    return pd.DataFrame({f"{number} images": {"seconds an image": f"{row['median']:.3f}", "range": _range(row, 3)} for number, row in images.items()}).T


def released_table(released: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Ours against the released recipe by number of classes: time, and how far the maps are apart, of their maximum."""
    lines = {}
    for k, row in released.items():
        [way] = [name for name in row["seconds"] if name != "released"]
        line = {"times faster": f"{row['speedup']['median']:.1f}", "range": _range(row["speedup"], 1)}
        line |= {"released, s": _short(row["seconds"]["released"]["median"], 1), "way": "ours" if way == OURS else way}
        line |= {"its seconds": _short(row["seconds"][way]["median"], 1)}
        lines[f"C = {k}"] = line | {"difference of the maps": f"{row['difference']:.0e}"}
    return pd.DataFrame(lines).T


def families_table(families: Mapping[str, Mapping[str, Any] | str]) -> pd.DataFrame:
    """A column a family of models: its attention layers by stride, whether recording changes its output, differences and peaks of memory."""

    def line(found: Mapping[str, Any] | str) -> dict[str, str]:
        if isinstance(found, str):
            return {"parameters": found}
        layers = {kind: ", ".join(f"{number} at stride {d}" for d, number in found[kind].items()) for kind in ("cross", "self")}
        return {
            "parameters": f"{found['parameters'] / 1e6:.0f} M",
            "latents": " x ".join(map(str, found["latents"])),
            "cross-attention layers, at latent": layers["cross"],
            "self-attention layers, at latent": layers["self"],
            "output unchanged": "bit for bit" if found["output_equal"] else "no",
            "optimized against plain": f"{found['optimized_difference']:.0e}",
            "bare, MiB": found["mib"]["bare"],
            "ours, MiB": found["mib"]["optimized"],
        }

    return pd.DataFrame({name: line(found) for name, found in families.items()}).fillna("")


def sharing_table(rows: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Mean IoU with each class's own self-attention and with one for all."""
    lines = {}
    for name, row in rows.items():
        low, high = row["ci95"]
        lines[name] = {"mIoU, %": round(row["value"], 1), "95 % interval": f"{low:.1f} to {high:.1f}", "images": row["images"]}
    return pd.DataFrame(lines).T


def precision_table(precision: Mapping[str, Any], gpu: Mapping[str, str]) -> pd.DataFrame:
    """Time ratios in half precision on the processor, and what was measured on a GPU; what was not run has no row."""

    def text(row: Mapping[str, Any] | str) -> str:
        if isinstance(row, str):
            return row
        return f"{row['time_ratio']['median']:.2f} ({_range(row['time_ratio'], 2)}); bare forward {row['bare_seconds']['median']:.1f} s"

    lines = {f"{name}, this machine's processor, time ratio at C = 1": text(row) for name, row in precision.items()}
    lines |= {f"GPU: {name}": found for name, found in gpu.items()}
    return pd.Series({name: text for name, text in lines.items() if not text.startswith("not run")}, name="found").to_frame()


def numbers(facts: Mapping[str, Any], goals: Sequence[Goal]) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name."""
    ratio, shared = {k: row["median"] for k, row in facts["time_ratio"].items()}, facts["sharing"]["effect"]
    low, high = shared["ci95"]
    grown = facts["full"].get("classes")
    side = {k: ways["side prompts"]["ratio"]["median"] for k, ways in grown["rows"].items()} if grown else {}
    released = facts["speedup_vs_released"].get("1")
    missed = [f"{one.what} ({one.wanted}: {one.figure:.2f})" for one in goals if one.met is False]
    return {
        "speed_ratios": ", ".join(f"{value:.2f} (C = {k})" for k, value in ratio.items()),
        "speed_side": ", ".join(f"{value:.2f} (C = {k})" for k, value in side.items()) or "not yet measured",
        "speed_released": f"{released['median']:.1f} times as fast at C = 1" if released else "not yet compared in time",
        "speed_mib": f"{facts['extra_mib']['1']:.0f}",
        "speed_memory": f"{facts['memory_vs_released']:,.0f}",
        "speed_met": f"{sum(one.met is True for one in goals)} of {len(goals)}",
        "speed_missed": "; ".join(missed) or "none",
        "shared_cost": f"{shared['value']:+.2f} ({low:+.2f} to {high:+.2f})",
    }


def _short(value: float, digits: int = 0) -> str:
    """A figure: two decimals below ten, one from there on, or as many as are asked for; none stands for a whole number of thousands."""
    return f"{value:,.{digits or (2 if abs(value) < 10 else 1)}f}"


def classes_table(grown: Mapping[str, Any]) -> pd.DataFrame:
    """Time against the bare forward of one row, by number of classes and way; "scaled" is one call's time, so many times."""

    def text(row: Mapping[str, Any]) -> str:
        ends = f" ({_range(row['ratio'], 2)})" if row["ratio"]["repeats"] > 1 else ""
        return f"{_short(row['ratio']['median'])}{ends}" + (f", scaled from one of {row['calls']} calls" if row["calls"] > 1 else "")

    return pd.DataFrame({f"C = {k}": {way: text(row) for way, row in ways.items()} for k, ways in grown["rows"].items()}).T


def _range(row: Mapping[str, Any], digits: int) -> str:
    return " to ".join(f"{value:.{digits}f}" for value in row["range"])


def cost_table(ratio: float, teraflops: float, places: Mapping[str, int], shares: Sequence[float] = (0.1, 0.4)) -> pd.DataFrame:
    """Time that whole data sets would take, estimated (see :func:`~benchmarks.goals.hours`).

    Args:
        ratio: A segmentation's time to the bare forward's.
        teraflops: The device's peak, TFLOP a second.
        places: Name of a place to its number of devices.
        shares: Shares of the peak that are reached, 0 to 1.
    """
    columns = {}
    for name, (number, asked) in DATASETS.items():
        column = {"images": str(number), "classes an image (assumed)": f"{asked:g}"}
        for share in shares:
            for place, devices in places.items():
                seconds = 3600 * hours(number, asked, ratio, teraflops, share, devices)
                column[f"{place}, {share:.0%} of peak"] = _span(seconds)
        columns[name] = column
    return pd.DataFrame(columns)


def _span(seconds: float) -> str:
    if seconds < 1:
        return "below 1 s"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
