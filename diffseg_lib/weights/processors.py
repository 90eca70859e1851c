"""What stands before CLIP, BLIP and GroupViT: their processors, with what their files leave out told by the model's own settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .files import read_json
from .parts import quietly
from .pipelines import set_length

FILES = ("processor_config.json", "preprocessor_config.json")
CLIP_COLOURS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))  # mean and deviation, of CLIP and of BLIP
IMAGENET_COLOURS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def find_processor(name: str, kind: str, folder: Path, config: Any) -> tuple[Any, tuple[str, ...]]:
    """A processor of pictures and words, and notes on what was filled in.

    Args:
        name: Name of its class, "CLIPProcessor" or "BlipProcessor".
        kind: Kind of the model, of ``diffseg_lib.weights.parts.KINDS``.
        folder: Folder of the model.
        config: Settings of the model.

    Raises:
        ValueError: If it makes pictures of another size than the model reads.
        OSError: If the files of its words are missing.
    """
    import transformers

    there = next((folder / one for one in FILES if (folder / one).is_file()), None)
    notes: list[str] = []
    with quietly():
        if there is None:
            mean, deviation = IMAGENET_COLOURS if kind == "groupvit" else CLIP_COLOURS
            images = getattr(transformers, name.replace("Processor", "ImageProcessor"))(image_mean=list(mean), image_std=list(deviation))
            made = getattr(transformers, name)(images, transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True))
            told: dict[str, Any] = {}
        else:
            made, told = getattr(transformers, name).from_pretrained(folder, local_files_only=True), read_json(there)
            told = told.get("image_processor", told)
    images, side = made.image_processor, int(config.vision_config.image_size)
    if "size" not in told and "crop_size" not in told:
        cropped = name == "CLIPProcessor"
        images.size = {"shortest_edge": side} if cropped else {"height": side, "width": side}
        images.crop_size = {"height": side, "width": side} if cropped else images.size
        what = "no settings of its pictures" if there is None else f"no size in {there.name}"
        notes.append(f"{folder.name} has {what}: {side} px, as the model's own say" + ("" if there else ", and the colours of its family"))
    if (found := _side(images)) != side:
        raise ValueError(f"{there} makes pictures of {found} px, the model in {folder} reads {side}: expected the files of one model")
    if kind != "captioner":  # which pads nothing
        notes += set_length(made.tokenizer, config.text_config.max_position_embeddings)
    return made, tuple(notes)


def _side(images: Any) -> int:
    """The side of the pictures that an image processor makes, px."""
    size = images.crop_size if getattr(images, "do_center_crop", False) else images.size
    sides = [size[key] for key in ("height", "width", "shortest_edge") if size.get(key)]
    return int(sides[0])
