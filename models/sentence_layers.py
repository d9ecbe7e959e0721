"""What is done to the layers of a torch model: ending it early, and the temperature of its attention."""

from __future__ import annotations

import copy

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import nn

from models.errors import UnsupportedRuntime

# Their layers lie in `encoder.layer`, each ends in a normalisation, and nothing comes behind the last one: the states
# after any layer are of the kind that the pooling was made for.
LIKE_BERT = frozenset({"bert", "camembert", "electra", "mpnet", "roberta", "xlm-roberta"})


def exits(model: SentenceTransformer) -> tuple[int, ...]:
    """Return after how many layers the model can end, ascending; (0,) for a model without layers.

    Only models of one BERT-like transformer end early; any other one has one exit behind its last layer.
    """
    transformers = [module for module in model.modules() if isinstance(module, Transformer)]
    depths = [int(getattr(module.model.config, "num_hidden_layers", 1)) for module in transformers]
    if len(transformers) == 1 and _layers(transformers[0].model) is not None:
        return tuple(range(1, depths[0] + 1))
    return (max(depths, default=0),)


def first_layers(model: SentenceTransformer, count: int) -> SentenceTransformer:
    """Return a model that ends after `count` layers and shares all weights with this one."""
    parts = (*model.parameters(), *model.buffers(), *_tokenizers(model))
    shared: dict[int, object] = {id(part): part for part in parts}
    cut = copy.deepcopy(model, shared)
    for module in cut.modules():
        if isinstance(module, Transformer):
            module.model.encoder.layer = module.model.encoder.layer[:count]
    return cut


def scale_attention(model: SentenceTransformer, temperature: float) -> None:
    """Divide the products of queries and keys by `temperature` as well as by the root of their length, in all layers.

    TempScale (arXiv 2410.24200): below 1, attention is sharper, and vectors of long texts crowd together less.

    Raises
    ------
    UnsupportedRuntime
        Attention is not found in every layer.
    """
    transformers = [module.model for module in model.modules() if isinstance(module, Transformer)]
    for transformer in transformers:
        found = [
            module
            for module in transformer.modules()
            if isinstance(getattr(module, "scaling", None), float)
            and isinstance(getattr(module, "query", None), nn.Linear)
        ]
        if len(found) != transformer.config.num_hidden_layers:
            break
        for module in found:
            module.scaling = module.scaling / temperature
    else:
        if transformers:
            return
    raise UnsupportedRuntime(
        "the temperature of its attention cannot be set", hint="leave the temperature at 1, or take a BERT-like model"
    )


def _layers(transformer: nn.Module) -> nn.ModuleList | None:
    if getattr(transformer.config, "model_type", None) not in LIKE_BERT:
        return None
    layers = getattr(getattr(transformer, "encoder", None), "layer", None)
    return layers if isinstance(layers, nn.ModuleList) else None


def _tokenizers(model: SentenceTransformer) -> list[object]:
    return [part for module in model.modules() for part in [getattr(module, "processor", None)] if part is not None]
