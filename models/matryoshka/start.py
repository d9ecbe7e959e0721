"""The model folder that a training starts from. Knows no torch."""

from __future__ import annotations

from pathlib import Path

from models.folder import check_hub_id, hub_folder
from models.loading import preset_folder
from models.presets import find_preset


def start_folder(name: str) -> Path:
    """Return the folder of a preset or of a model hub repository; it is not changed.

    Raises
    ------
    UnknownEncoder, ModelNotFound
    """
    preset = find_preset(name)
    if preset is not None:
        return preset_folder(preset)
    check_hub_id(name)
    return hub_folder(name, None, "check the name and the connection, or give a local folder")
