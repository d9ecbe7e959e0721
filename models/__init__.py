"""Models: text to vectors (encoders) and vectors to codes (binarizers).

Importing this package is light: torch is imported when an encoder is loaded.
"""

from __future__ import annotations

from models.binarizer import TrainingFree, TrainingFreeFactory
from models.binarizers import Binarizers
from models.encoder import Encoded, Encoder, load_encoder
from models.errors import (
    CorruptBinarizer,
    InvalidSize,
    InvalidText,
    InvalidVectors,
    ModelError,
    ModelMismatch,
    ModelNotFound,
    UnknownEncoder,
    UnsafeModel,
)
from models.presets import EncoderInfo, describe_encoders

__all__ = [
    "Binarizers",
    "CorruptBinarizer",
    "Encoded",
    "Encoder",
    "EncoderInfo",
    "InvalidSize",
    "InvalidText",
    "InvalidVectors",
    "ModelError",
    "ModelMismatch",
    "ModelNotFound",
    "TrainingFree",
    "TrainingFreeFactory",
    "UnknownEncoder",
    "UnsafeModel",
    "describe_encoders",
    "load_encoder",
]
