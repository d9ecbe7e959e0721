"""Random students in folders, with layers, for whatever serves them."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from models.student_folder import StudentFormat, StudentMeta, write_student
from models.student_weights import StudentShape, StudentWeights
from tests.tiny_models import VOCABULARY

AROUND = VOCABULARY["[CLS]"], VOCABULARY["[SEP]"]
WINDOW = 10


def tokenizer(around=True):
    made = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if around:
        made.post_processor = processors.BertProcessing(("[SEP]", AROUND[1]), ("[CLS]", AROUND[0]))
    made.add_special_tokens([name for name in VOCABULARY if name.startswith("[")])
    return made.to_str().encode()


def random_student(*, mix=6, exits=(0, 1, 3), static_window=12, seed=0):
    """Random weights, norms around one, gates that count."""
    shape = StudentShape(
        vocabulary=len(VOCABULARY), dimension=12, exits=exits, window=WINDOW, static_window=static_window, mix=mix,
        hidden=8, heads=2, ffn=20, positions=16,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    arrays = {name: rng.normal(0, 0.5, size).astype(np.float32) for name, size in shape.arrays().items()}
    for name, array in arrays.items():
        if name.endswith("norm.weight"):
            array += 1
        if name.endswith("gate"):
            arrays[name] = np.array(0.5 + rng.random(), dtype=np.float32)
    arrays["static.table"][:5] = 0
    arrays["static.table"][VOCABULARY["[UNK]"]] = 1
    return StudentWeights(shape, arrays)


def write_random_student(folder, *, around=True, weights=None, **settings):
    meta = StudentMeta(space="words/12", dimensions=(4, 12))
    stored = StudentFormat(layers="float16")
    weights = weights or random_student(**settings)
    write_student(folder, weights, meta=meta, tokenizer=tokenizer(around), stored=stored)
    return folder
