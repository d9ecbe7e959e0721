"""Models: text to vectors (encoders) and vectors to codes (binarizers).

Importing this package is light: torch is imported when an encoder is loaded.
"""

from __future__ import annotations

from models.binarizer import TrainingFree, TrainingFreeFactory, correction_factors
from models.encoder import Encoded, Encoder, load_encoder
from models.errors import (
    CorruptBinarizer,
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
    "CorruptBinarizer",
    "Encoded",
    "Encoder",
    "EncoderInfo",
    "InvalidText",
    "InvalidVectors",
    "ModelError",
    "ModelMismatch",
    "ModelNotFound",
    "TrainingFree",
    "TrainingFreeFactory",
    "UnknownEncoder",
    "UnsafeModel",
    "correction_factors",
    "describe_encoders",
    "load_encoder",
]
