"""The attention explorer's page: HTML that needs no network, no server and no framework."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ...support.files import write_text
from .scene import SceneRecording, explorer_data, unpack

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main id="explorer"><noscript>This page computes as you look, in JavaScript: allow it, and load the page again.</noscript></main>
<script>
{script}</script>
{scenes}
</body>
</html>
"""


@dataclass(frozen=True)
class Shown:
    """The page as JupyterLab shows it, in a frame of its own.

    Args:
        text: Page, HTML.
        height: Height of the frame, px.
    """

    text: str
    height: int = 900

    def _repr_html_(self) -> str:
        frame = f'width="100%" height="{self.height}" style="border:0" title="Attention explorer"'
        return f'<div><iframe srcdoc="{escape(self.text)}" {frame}></iframe></div>'


def explorer_html(data: bytes | Sequence[bytes], standalone: bool = True) -> str:
    """The page of one scene or several.

    Args:
        data: Scenes, as :func:`~diffseg_lib.book.explorer.scene.explorer_data` gives them.
        standalone: Whether the scenes are in the page; else it loads the files of :func:`scene_script` that lie beside it, each when it is opened.
    """
    scenes = [data] if isinstance(data, bytes) else list(data)
    titles = [unpack(one)[0]["title"] for one in scenes]
    files = [] if standalone else [f"scene-{i}.js" for i in range(len(scenes))]
    lines = [f"<script>Explorer.start({_script_json({'titles': titles, 'files': files})});</script>"]
    lines += [f"<script>{scene_script(one, i)}</script>" for i, one in enumerate(scenes) if standalone]
    here = Path(__file__).parent
    title = "Attention explorer" if len(titles) > 1 else f"Attention explorer: {titles[0]}"
    parts = {part: (here / f"explorer.{suffix}").read_text(encoding="utf-8") for part, suffix in (("style", "css"), ("script", "js"))}
    return PAGE.format(title=escape(title), scenes="\n".join(lines), **parts)


def _script_json(value: object) -> str:
    """JSON that no text in it can end the script early."""
    return json.dumps(value).replace("<", "\\u003c")


def scene_script(data: bytes, index: int) -> str:
    """A scene as a script: a page from ``file://`` may not read other files than scripts.

    Args:
        data: Packed scene.
        index: Number of the scene in its page, from 0.
    """
    return f'Explorer.receive({index}, "{base64.b64encode(data).decode()}");'


def write_explorer(folder: Path, scenes: Sequence[bytes]) -> Path:
    """Write the page and, beside it, a script of each scene; returns the page's path.

    Args:
        folder: Folder that they go to; it is made.
        scenes: Packed scenes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for i, data in enumerate(scenes):
        write_text(folder / f"scene-{i}.js", scene_script(data, i) + "\n")
    return write_text(folder / "index.html", explorer_html(scenes, standalone=False))


def show(scene: SceneRecording, height: int = 900) -> Shown:
    """The page of a recorded scene, for the last line of a notebook's cell.

    Args:
        scene: Recorded scene, as :func:`~diffseg_lib.book.explorer.scene.record_scene` gives it.
        height: Height of the frame, px.
    """
    return Shown(explorer_html(explorer_data(scene)), height)
