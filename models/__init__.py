"""Models: text to vectors (encoders) and vectors to codes (binarizers).

Importing this package is light: a runtime is imported when an encoder is loaded, torch only where ONNX Runtime or
NumPy do not serve it.
"""

from __future__ import annotations

from models.binarizer import TrainingFree, TrainingFreeFactory
from models.binarizers import Binarizers
from models.encoder import Encoded, Encoder
from models.errors import (
    CorruptBinarizer,
    CorruptModel,
    InvalidEncoderFile,
    InvalidSize,
    InvalidText,
    InvalidVectors,
    ModelError,
    ModelMismatch,
    ModelNotFound,
    UnknownEncoder,
    UnsafeModel,
    UnsupportedRuntime,
    UnsupportedSize,
)
from models.loading import load_encoder
from models.presets import EncoderInfo, default_pair, describe_encoders
from models.sizes import Sizes

__all__ = [
    "Binarizers",
    "CorruptBinarizer",
    "CorruptModel",
    "Encoded",
    "Encoder",
    "EncoderInfo",
    "InvalidEncoderFile",
    "InvalidSize",
    "InvalidText",
    "InvalidVectors",
    "ModelError",
    "ModelMismatch",
    "ModelNotFound",
    "Sizes",
    "TrainingFree",
    "TrainingFreeFactory",
    "UnknownEncoder",
    "UnsafeModel",
    "UnsupportedRuntime",
    "UnsupportedSize",
    "default_pair",
    "describe_encoders",
    "load_encoder",
]
