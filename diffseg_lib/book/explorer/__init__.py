"""The attention explorer: one page, without a network, that shows what each pixel and each word of a scene attends to, and redraws the labels at once."""

from .page import explorer_html, show
from .scene import LARGEST, Replay, SceneRecording, explorer_data, record_scene, replay

__all__ = ["LARGEST", "Replay", "SceneRecording", "explorer_data", "explorer_html", "record_scene", "replay", "show"]
