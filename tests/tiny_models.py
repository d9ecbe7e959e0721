"""Tiny random models in folders like real ones, and the slow way to their vectors."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

WORDS = "the a cat dog sat ran on mat road query passage : red blue".split()
VOCABULARY = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
HIDDEN = 16


@dataclass
class Tiny:
    """A random model folder and the slow way to its vectors."""

    folder: Path
    pooling: str = "mean"
    dense: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    window: int = 12
    seed: int = 0

    def write(self):
        import torch
        from safetensors.torch import save_file
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=HIDDEN,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
            initializer_range=0.5,
        )
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            BertModel(config).save_pretrained(self.folder)
            weights = {"linear.weight": torch.randn(6, HIDDEN), "linear.bias": torch.randn(6)}
        write_tokenizer(self.folder)
        kinds = ["Transformer", "Pooling"] + ["Dense"] * self.dense
        paths = ["", "1_Pooling", "2_Dense"]
        modules = [
            {"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{kind}"}
            for i, kind in enumerate(kinds)
        ]
        write_json(self.folder / "modules.json", modules)
        write_json(self.folder / "sentence_bert_config.json", {"max_seq_length": self.window})
        pooling = {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": self.pooling == "mean"}
        pooling["pooling_mode_cls_token"] = self.pooling == "cls"
        write_json(self.folder / "1_Pooling" / "config.json", pooling)
        stated = {"prompts": self.prompts, "default_prompt_name": self.default_prompt}
        write_json(self.folder / "config_sentence_transformers.json", stated)
        if self.dense:
            dense = {"in_features": HIDDEN, "out_features": 6, "bias": True}
            dense["activation_function"] = "torch.nn.modules.activation.Tanh"
            write_json(self.folder / "2_Dense" / "config.json", dense)
            save_file(weights, self.folder / "2_Dense" / "model.safetensors")
        return self

    def oracle(self, text, prompt=""):
        """One text, no padding, no tokenizer, pooling in NumPy: (unit vector, was it cut)."""
        import torch
        from safetensors.numpy import load_file
        from transformers import BertModel

        ids = [VOCABULARY.get(word, 1) for word in (prompt + text).replace(":", " : ").split()]
        ids, cut = ids[: self.window - 2], len(ids) > self.window - 2
        model = BertModel.from_pretrained(self.folder).eval()
        with torch.no_grad():
            states = model(torch.tensor([[2, *ids, 3]])).last_hidden_state[0].numpy().astype(np.float64)
        vector = states[0] if self.pooling == "cls" else states.mean(axis=0)
        if self.dense:
            weights = load_file(self.folder / "2_Dense" / "model.safetensors")
            vector = np.tanh(weights["linear.weight"] @ vector + weights["linear.bias"])
        return vector / np.linalg.norm(vector), cut


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_tokenizer(folder, vocabulary=VOCABULARY):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"unk": "[UNK]", "pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    special = {f"{name}_token": token for name, token in names.items()}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
