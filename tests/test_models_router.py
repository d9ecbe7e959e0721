"""Models with a route for queries and one for documents: loaded, told apart and checked behind their router."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from models import ModelError, ModelNotFound, UnsafeModel, load_encoder
from tests.tiny_models import Tiny, write_json

TEXTS = ["the cat sat on the mat", "a dog", "red road blue road", "the " * 20]
QUERY, DOCUMENT = "query_0_Transformer", "document_0_Transformer"


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def save(folder, tmp_path, *, query=0, document=1):
    """Write a model of two routes as the library itself writes it; weights follow from the two seeds."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    routes = []
    for name, seed in (("query", query), ("document", document)):
        part = tmp_path / f"{folder}-{name}"
        routes.append(list(SentenceTransformer(str(Tiny(part, seed=seed).write().folder)).children()))
    router = Router.for_query_document(query_modules=routes[0], document_modules=routes[1])
    SentenceTransformer(modules=[router]).save_pretrained(str(tmp_path / folder / "routed"), create_model_card=False)
    return tmp_path / folder / "routed"


@pytest.fixture
def routed(tmp_path):
    return save("first", tmp_path)


def load(folder):
    return load_encoder("mine", folder=folder)


def edit(file, **changes):
    write_json(file, json.loads(file.read_text()) | changes)


def test_the_weights_lie_where_only_the_router_names_them(routed):
    """What the other tests rest on: the router is the root, and `modules.json` knows no folder with weights."""
    assert [entry["path"] for entry in json.loads((routed / "modules.json").read_text())] == [""]
    assert not (routed / "model.safetensors").exists()
    assert (routed / QUERY / "model.safetensors").is_file()
    assert (routed / DOCUMENT / "model.safetensors").is_file()


def test_queries_and_documents_take_their_own_routes(routed):
    encoder = load(routed)
    for encode, route in ((encoder.encode_queries, QUERY), (encoder.encode_documents, DOCUMENT)):
        encoded = encode(TEXTS)
        expected = [Tiny(routed / route).oracle(text) for text in TEXTS]
        np.testing.assert_allclose(encoded.vectors, [vector for vector, _ in expected], atol=1e-5)
        assert encoded.truncated.tolist() == [cut for _, cut in expected]
    difference = encoder.encode_queries(TEXTS).vectors - encoder.encode_documents(TEXTS).vectors
    assert np.abs(difference).max() > 1e-2


def test_space_follows_the_weights_of_every_route(routed, tmp_path):
    space = load(routed).space
    assert load(save("same", tmp_path)).space == space
    others = {load(save("query", tmp_path, query=2)).space, load(save("document", tmp_path, document=2)).space}
    assert len({space, *others}) == 3


def test_space_follows_the_modules_of_a_router_in_a_subfolder(routed, tmp_path):
    """Also when the router is not the root, and one router lies in another."""
    outer = tmp_path / "outer" / "routed"
    shutil.copytree(routed, outer / "inner")
    write_json(outer / "modules.json", json.loads((routed / "modules.json").read_text()))
    kind = json.loads((routed / "modules.json").read_text())[0]["type"]
    routes = {"types": {"inner": kind}, "structure": {"query": ["inner"], "document": ["inner"]}}
    write_json(outer / "router_config.json", routes | {"parameters": {"default_route": "document"}})
    before = load(outer)
    expected = load(routed)
    np.testing.assert_allclose(before.encode_queries(TEXTS).vectors, expected.encode_queries(TEXTS).vectors, atol=1e-6)
    shutil.copy(outer / "inner" / DOCUMENT / "model.safetensors", outer / "inner" / QUERY)
    assert load(outer).space != before.space


@pytest.mark.parametrize("route", [QUERY, DOCUMENT])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickle_weights_of_a_route_are_refused(routed, route, name):
    (routed / route / "model.safetensors").rename(routed / route / name)
    with pytest.raises(UnsafeModel, match=rf"{route}.* pickle \({name}\)"):
        load(routed)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_missing_files_of_a_route_are_named(routed, name):
    (routed / QUERY / name).unlink()
    with pytest.raises(ModelNotFound, match=rf"{QUERY} has no {name}"):
        load(routed)


def test_a_router_without_its_configuration(routed):
    (routed / "router_config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"no router_config\.json"):
        load(routed)


@pytest.mark.parametrize(
    ("types", "error", "match"),
    [
        ({QUERY: "modeling.Custom"}, UnsafeModel, r"modeling\.Custom"),
        ({"../other": "sentence_transformers.models.Pooling"}, UnsafeModel, r"router_config\.json .*outside"),
        ({"/tmp": "sentence_transformers.models.Pooling"}, UnsafeModel, "outside the folder"),
        ({"": "sentence_transformers.models.Router"}, ModelError, "the router's own folder"),
        ({".": "sentence_transformers.models.Router"}, ModelError, "the router's own folder"),
        ({QUERY: 5}, ModelError, "names a type for each module"),
        ({}, ModelError, "names a type for each module"),
        ([], ModelError, "names a type for each module"),
    ],
)
def test_routes_that_are_not_to_be_followed(routed, types, error, match):
    edit(routed / "router_config.json", types=types)
    with pytest.raises(error, match=match):
        load(routed)


def test_weights_in_parts_are_for_transformers_only(tmp_path):
    """A Dense module reads one file: with an index of parts beside it, it would take the pickle."""
    folder = Tiny(tmp_path / "dense", dense=True).write().folder
    weights = folder / "2_Dense" / "model.safetensors"
    write_json(weights.with_name("model.safetensors.index.json"), {"weight_map": {"linear.weight": weights.name}})
    assert load(folder).dimension == 6
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(UnsafeModel, match=r"2_Dense.* pickle \(pytorch_model\.bin\)"):
        load(folder)
    weights.with_name("pytorch_model.bin").unlink()
    with pytest.raises(ModelNotFound, match=r"2_Dense has no model\.safetensors"):
        load(folder)


def test_a_transformer_may_have_its_weights_in_parts(tmp_path):
    from safetensors.numpy import load_file, save_file

    model = Tiny(tmp_path / "parts").write()
    weights = model.folder / "model.safetensors"
    tensors = load_file(weights)
    expected, _ = model.oracle("the cat")
    weights.unlink()
    names = {tensor: f"part-{i % 2}.safetensors" for i, tensor in enumerate(sorted(tensors))}
    for part in set(names.values()):
        inside = {name: tensor for name, tensor in tensors.items() if names[name] == part}
        save_file(inside, model.folder / part, {"format": "pt"})
    write_json(model.folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": names})
    np.testing.assert_allclose(load(model.folder).encode_documents(["the cat"]).vectors[0], expected, atol=1e-5)
