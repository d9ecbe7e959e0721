"""Recurrent binary codes: the forward pass, the estimate, the network that is exported, the bytes, the folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from models import CorruptBinarizer, InvalidVectors
from models.binarizer_folder import load_binarizer, save_binarizer
from models.binarizers import Binarizers
from models.decoding import relative_error
from models.errors import ModelNotFound
from models.grid import levels_of, prefix_of, values_of
from models.recurrent import Recurrent, load_recurrent
from models.recurrent_forward import INPUT_SCALE, Affine, Block, Forward, unit_inputs
from models.recurrent_network import RecurrentNetwork
from models.training_start import (
    ForwardStart,
    LinearStart,
    Start,
    compatible_rows,
    grid_start,
    grid_units,
    predictor,
    rotation_rows,
)

D, M = 20, 13


def text_like(n, d=D, seed=0):
    """Vectors of length 1 with a falling spectrum and a mean that is not zero."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5 + 0.3
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def affine(rng, inputs, outputs):
    return Affine(
        rng.standard_normal((outputs, inputs)).astype(np.float32), rng.standard_normal(outputs).astype(np.float32)
    )


def block(rng, inputs, outputs, hidden):
    widths = [inputs, *hidden, outputs]
    layers = tuple(affine(rng, a, b) for a, b in zip(widths, widths[1:], strict=False)) if hidden else ()
    return Block(affine(rng, inputs, outputs), layers)


def random_binarizer(bits, *, hidden=(), query_hidden=(), decoder=False, seed=0, m=M):
    rng = np.random.default_rng(seed)
    up = tuple(block(rng, m, D + 1, hidden) for _ in range(bits - 1))
    down = tuple(block(rng, D + 1, m, hidden) for _ in range(bits - 1))
    return Recurrent(
        mean=rng.standard_normal(D).astype(np.float32) / 10,
        forward=Forward(block(rng, D + 1, m, hidden), up, down),
        tower=block(rng, D, m, query_hidden),
        decoder=rng.standard_normal((D, m)).astype(np.float32) if decoder else None,
        sweeps=3 if decoder else 0,
        compatible_with=["training-free-1b-abcdef"],
    )


def slow_block(block, row):
    straight = [
        sum(w * x for w, x in zip(ws, row, strict=True)) + b for ws, b in zip(*parts(block.straight), strict=True)
    ]
    hidden = list(row)
    for i, layer in enumerate(block.layers):
        hidden = [sum(w * x for w, x in zip(ws, hidden, strict=True)) + b for ws, b in zip(*parts(layer), strict=True)]
        if i + 1 < len(block.layers):
            hidden = [max(h, 0.0) for h in hidden]
    return [a + b for a, b in zip(straight, hidden, strict=True)] if block.layers else straight


def parts(layer):
    return layer.weight.astype(float).tolist(), layer.bias.astype(float).tolist()


def slow_forward(forward, f):
    """b^(u) and how near any sign came to 0, number by number from the formula."""
    nearest = np.inf

    def sign(row):
        nonlocal nearest
        nearest = min(nearest, *map(abs, row))
        return [1.0 if x >= 0 else -1.0 for x in row]

    b = sign(slow_block(forward.first, f))
    for i in range(len(forward.refine)):
        back = slow_block(forward.reconstruct[i], b)
        length = sum(x * x for x in back) ** 0.5
        r = sign(slow_block(forward.refine[i], [x - y / length for x, y in zip(f, back, strict=True)]))
        b = [x + 2.0 ** -(i + 1) * y for x, y in zip(b, r, strict=True)]
    return b, nearest


@pytest.mark.parametrize(("bits", "hidden"), [(1, ()), (2, ()), (4, ()), (2, (9,)), (3, (9, 7))])
def test_forward_is_the_formula(bits, hidden):
    binarizer = random_binarizer(bits, hidden=hidden)
    inputs = unit_inputs(text_like(25) - binarizer.mean)
    found = values_of(binarizer.forward.levels(inputs), bits)
    compared = 0
    for row, values in zip(inputs, found, strict=True):
        expected, nearest = slow_forward(binarizer.forward, row.astype(float).tolist())
        if nearest > 1e-5:
            compared += 1
            assert values.tolist() == expected
    assert compared > 15


@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)])
def test_a_block_in_other_units(hidden):
    one = block(np.random.default_rng(0), D, M, hidden)
    vectors = text_like(10)
    np.testing.assert_allclose(one.in_units(50.0)(50 * vectors), 50 * one(vectors), rtol=1e-3, atol=1e-3)


def test_zero_counts_as_positive():
    nothing = Affine(np.zeros((3, D + 1), np.float32), np.zeros(3, np.float32))
    back = Affine(np.ones((D + 1, 3), np.float32), np.ones(D + 1, np.float32))
    forward = Forward(Block(nothing), (Block(back),), (Block(nothing),))
    assert (forward.levels(unit_inputs(text_like(2))) == 3).all()


def test_inputs_have_length_one_and_ignore_the_length_of_vectors():
    centred = text_like(10) - 0.2
    inputs = unit_inputs(centred)
    np.testing.assert_allclose(np.linalg.norm(inputs, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(inputs, unit_inputs(centred * 1e6), rtol=1e-5)
    directions = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(inputs[:, :-1], INPUT_SCALE * directions, rtol=1e-5)
    assert np.isfinite(unit_inputs(np.zeros((1, D), np.float32))).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_factors_make_a_documents_estimate_of_itself_exact(bits):
    """With a tower that suits the codes, for every prefix: factor * <tower(x), v_p> = |x|^2."""
    binarizer = fitted(bits)
    documents = text_like(50, seed=3)
    levels, factors = binarizer.encode(documents)
    assert levels.dtype == np.uint8
    assert levels.shape == (50, 16)
    assert factors.shape == (50, bits)
    x = documents - binarizer.mean
    for p in range(1, bits + 1):
        values = values_of(prefix_of(levels[:, :M], bits, p), p)
        estimate = factors[:, p - 1] * np.einsum("ij,ij->i", binarizer.tower(x), values)
        np.testing.assert_allclose(estimate, (x * x).sum(axis=1), rtol=1e-4)


def test_factors_stay_bounded_where_a_code_points_away_and_are_zero_at_the_mean():
    binarizer = random_binarizer(2)
    documents = np.concatenate([text_like(200), binarizer.mean[None]])
    levels, factors = binarizer.encode(documents)
    x = documents - binarizer.mean
    mapped = binarizer.tower(x)
    values = values_of(levels[:, :M], 2)
    cosine = (mapped * values).sum(1) / np.linalg.norm(mapped, axis=1) / np.linalg.norm(values, axis=1)
    assert (cosine[:-1] < 0).any()
    limit = (x * x).sum(1) / (0.1 * np.linalg.norm(mapped, axis=1) * np.linalg.norm(values, axis=1))
    assert (factors[:-1, 1] <= limit[:-1] * 1.001).all()
    assert (factors[:-1] > 0).all()
    assert factors[-1].tolist() == [0, 0]


def test_queries_are_padded_linear_and_not_centred():
    binarizer = fitted(1)
    queries = text_like(6, seed=4)
    mapped = binarizer.queries(queries)
    assert mapped.shape == (6, 16)
    assert not mapped[:, M:].any()
    np.testing.assert_allclose(mapped[:, :M], queries @ binarizer.tower.straight.weight.T, atol=1e-6)
    cut = queries.copy()
    cut[:, 8:] = 0
    np.testing.assert_allclose(binarizer.queries(cut) + binarizer.queries(queries - cut), mapped, atol=1e-5)


def test_a_tower_that_is_not_linear_refuses_cut_queries():
    binarizer = random_binarizer(1, query_hidden=(5,))
    queries = text_like(4)
    assert binarizer.queries(queries).shape == (4, 16)
    queries[2, 10:] = 0
    with pytest.raises(InvalidVectors, match="query 2 ends in 0"):
        binarizer.queries(queries)


@pytest.mark.parametrize("bits", [1, 2])
def test_query_levels_are_the_forward_pass_with_the_best_scale(bits):
    binarizer = fitted(bits)
    queries = text_like(6, seed=5)
    levels, scales = binarizer.query_levels(queries)
    assert np.array_equal(levels[:, :M], binarizer.forward.levels(unit_inputs(queries)))
    values, mapped = values_of(levels[:, :M], bits), binarizer.queries(queries)[:, :M]
    for scale, value, row in zip(scales, values, mapped, strict=True):
        errors = [np.linalg.norm(row - factor * scale * value) for factor in (0.99, 1.0, 1.01)]
        assert min(errors) == errors[1]


def test_polished_levels_are_nearer():
    binarizer, directions = fitted(2), unit_inputs(text_like(300) - fitted(2).mean)[:, :-1] / INPUT_SCALE
    plain = binarizer.encode(text_like(300))[0][:, :M]
    decoder = np.linalg.lstsq(values_of(plain, 2), directions, rcond=None)[0].T.astype(np.float32)
    polished = Recurrent(
        mean=binarizer.mean, forward=binarizer.forward, tower=binarizer.tower, decoder=decoder, sweeps=2
    ).encode(text_like(300))[0][:, :M]
    errors = [relative_error(directions, values_of(levels, 2), decoder) for levels in (plain, polished)]
    assert errors[1] < 0.98 * errors[0]


def text_directions():
    vectors = text_like(400)
    return unit_inputs(vectors - vectors.mean(axis=0))[:, :-1] / INPUT_SCALE


def rotation(bits):
    """Rows, and the unit of the grid along each, (M, 1)."""
    rows = rotation_rows(text_directions(), M, 0)
    return rows, grid_units(text_directions(), rows, bits)[:, None]


def fitted(bits, weight=None):
    """The exported network of a start: grid levels of a linear map, by default a rotation."""
    rows, units = rotation(bits)
    forward = grid_start(text_directions(), rows / units if weight is None else weight, bits)
    network = RecurrentNetwork(Start(forward, LinearStart(rows * units, np.zeros(M, np.float32))))
    mean = text_like(400).mean(axis=0)
    return Recurrent(mean=mean, forward=network.export_forward(), tower=network.tower.export())


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_grid_start_gives_the_levels_of_a_rotation(bits):
    """The recurrence computes what rounding to the grid does, but for the length of its reconstructions."""
    rows, units = rotation(bits)
    levels = fitted(bits).encode(text_like(400))[0][:, :M]
    agree = levels == levels_of(text_directions() @ (rows / units).T, bits)
    assert agree.mean() > (0.9999 if bits == 1 else 0.97)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_predictor_gives_levels_near_those_it_was_fitted_to(bits):
    directions = text_directions()
    mixed = np.random.default_rng(1).standard_normal((M, D)).astype(np.float32)
    wanted = values_of(levels_of(directions @ mixed.T * 2, bits), bits)
    found = values_of(fitted(bits, predictor(directions, wanted)).encode(text_like(400))[0][:, :M], bits)
    assert np.abs(found - wanted).mean() < 0.3
    assert np.abs(found[::-1] - wanted).mean() > 0.6


def test_compatible_rows_begin_with_the_older_ones():
    centred = text_like(200) - 0.1
    older = np.random.default_rng(0).standard_normal((5, D)).astype(np.float32)
    rows = compatible_rows(centred, older, 9, 0)
    np.testing.assert_allclose(rows[:5], older / np.linalg.norm(older, axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(rows[5:] @ rows[5:].T, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(rows[5:] @ rows[:5].T, 0, atol=1e-5)


@pytest.mark.parametrize(
    ("bits", "hidden", "blocks", "query_hidden"), [(1, 0, 1, 0), (2, 6, 1, 5), (4, 0, 1, 0), (3, 6, 2, 0)]
)
def test_export_is_the_network_in_eval_mode(bits, hidden, blocks, query_hidden):
    """After some training, so that changes, normalisation statistics and the non-linear branch all count."""
    rng = np.random.default_rng(0)
    vectors, (rows, units) = text_like(400), rotation(bits)
    mean = vectors.mean(axis=0)
    tower = LinearStart(rng.standard_normal((M, D)).astype(np.float32), np.zeros(M, np.float32))
    start = Start(grid_start(text_directions(), rows / units, bits), tower)
    torch.manual_seed(0)
    network = RecurrentNetwork(start, hidden=hidden, blocks=blocks, query_hidden=query_hidden)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.02)
    centred, inputs = torch.from_numpy(vectors - mean), torch.from_numpy(unit_inputs(vectors - mean))
    for _ in range(5):
        optimizer.zero_grad()
        codes = network.codes(centred, network(inputs))
        sum((code @ torch.randn(M)).square().mean() for code in codes).backward()
        optimizer.step()
    network.eval()
    binarizer = Recurrent(mean=mean, forward=network.export_forward(), tower=network.tower.export())
    levels, factors = binarizer.encode(vectors)
    with torch.no_grad():
        values = network(inputs)
        codes = network.codes(centred, values)
        np.testing.assert_allclose(
            binarizer.queries(vectors)[:, :M], network.queries(torch.from_numpy(vectors)), atol=1e-4
        )
        assert len(values) == bits
    same = values_of(levels[:, :M], bits) == values[-1].numpy()
    assert same.mean() > 0.999
    whole = same.all(axis=1)
    for p, code in enumerate(codes, start=1):
        found = values_of(prefix_of(levels[:, :M], bits, p), p) * factors[:, p - 1 : p]
        np.testing.assert_allclose(found[whole], code.numpy()[whole], rtol=2e-3, atol=1e-5)
    # A network that had not moved from its start would pass whatever its export forgot.
    assert float(network.first.change.detach().abs().max()) > 0.01


@pytest.mark.parametrize(
    "settings",
    [{"bits": 1}, {"bits": 4, "hidden": (6, 5)}, {"bits": 2, "decoder": True}, {"bits": 1, "query_hidden": (4,)}],
)
def test_saved_and_loaded_equals_live(settings, tmp_path):
    live = random_binarizer(**settings)
    loaded = Binarizers().load(live.to_bytes())
    assert isinstance(loaded, Recurrent)
    save_binarizer(tmp_path / "out", live, space="words/20")
    from_folder, description = load_binarizer(tmp_path / "out")
    vectors = text_like(30, seed=9)
    for other in (loaded, from_folder):
        assert other.to_bytes() == live.to_bytes()
        assert other.identity == live.identity
        assert (other.dimension, other.code_dimension, other.bits) == (D, 16, settings["bits"])
        for found, expected in zip(other.encode(vectors), live.encode(vectors), strict=True):
            assert np.array_equal(found, expected)
        assert np.array_equal(other.queries(vectors), live.queries(vectors))
        assert np.array_equal(other.query_levels(vectors)[0], live.query_levels(vectors)[0])
    assert (description["space"], description["identity"]) == ("words/20", live.identity)


def test_identity_is_of_the_contents():
    one, other = random_binarizer(2), random_binarizer(2, seed=1)
    assert one.identity == random_binarizer(2).identity != other.identity
    assert one.identity.startswith("recurrent-2b-")


def test_reads_what_it_was_trained_compatible_with():
    binarizer = random_binarizer(1)

    class Older:
        identity = "training-free-1b-abcdef"

    assert binarizer.reads(Older())
    Older.identity = "training-free-1b-fedcba"
    assert not binarizer.reads(Older())
    assert not load_recurrent(binarizer.to_bytes()).reads(Older())


def test_chunks_equal_the_whole(monkeypatch):
    binarizer, vectors = random_binarizer(2, decoder=True), text_like(50)
    whole = [*binarizer.encode(vectors), binarizer.queries(vectors), *binarizer.query_levels(vectors)]
    monkeypatch.setattr("models.recurrent.CHUNK_ROWS", 7)
    chunked = [*binarizer.encode(vectors), binarizer.queries(vectors), *binarizer.query_levels(vectors)]
    assert (whole[0] == chunked[0]).mean() > 0.999
    np.testing.assert_allclose(whole[2], chunked[2], atol=1e-5)
    assert binarizer.encode(vectors[:0])[0].shape == (0, 16)
    assert binarizer.encode(vectors[:0])[1].shape == (0, 2)


def test_every_damaged_byte_is_noticed():
    whole = random_binarizer(1, m=3).to_bytes()
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0x20
        with pytest.raises(CorruptBinarizer):
            load_recurrent(bytes(damaged))
    for length in range(0, len(whole), 7):
        with pytest.raises(CorruptBinarizer):
            load_recurrent(whole[:length])


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"bits": 3}, "refine|reconstruct"),
        ({"bits": 9}, "9 bits"),
        ({"sweeps": 1000}, "20 dimensions, 13 code dimensions, 1000 sweeps"),
        ({"format": 2}, "in format 2"),
        ({"binarizer": "other"}, "kind 'other'"),
        ({"layers": {}}, "not a stored binarizer"),
    ],
)
def test_wrong_contents_under_a_right_checksum(changed, match, monkeypatch):
    from models import recurrent

    original = recurrent._parts

    def changed_parts(binarizer):
        config, tensors = original(binarizer)
        return config | changed, tensors

    monkeypatch.setattr("models.recurrent._parts", changed_parts)
    data = random_binarizer(2).to_bytes()
    with pytest.raises(CorruptBinarizer, match=match):
        load_recurrent(data)


def test_values_that_are_not_finite_are_refused():
    binarizer = random_binarizer(1)
    binarizer.tower.straight.weight[2, 1] = np.nan
    with pytest.raises(CorruptBinarizer, match="not finite"):
        load_recurrent(binarizer.to_bytes())


def test_wrong_shapes():
    with pytest.raises(InvalidVectors, match=r"shape \(2, 7\), not \(n, 20\)"):
        random_binarizer(1).encode(np.zeros((2, 7), np.float32))


def test_folders_that_hold_no_whole_binarizer(tmp_path):
    with pytest.raises(ModelNotFound, match=r"binarizer\.safetensors cannot be read"):
        load_binarizer(tmp_path)
    save_binarizer(tmp_path, random_binarizer(1))
    description = tmp_path / "binarizer.json"
    text = json.loads(description.read_text())
    description.write_text("[]")
    with pytest.raises(CorruptBinarizer, match="not a binarizer's description"):
        load_binarizer(tmp_path)
    description.write_text(json.dumps(text | {"identity": "recurrent-1b-000000"}))
    with pytest.raises(CorruptBinarizer, match="the description is of recurrent-1b-000000"):
        load_binarizer(tmp_path)


def test_any_sizes():
    """More code dimensions than vector dimensions, and more planes than are ever stored."""
    forward = ForwardStart(linear(D + 1, 40), (linear(40, D + 1),) * 4, (linear(D + 1, 40),) * 4)
    network = RecurrentNetwork(Start(forward, linear(D, 40)), hidden=3)
    binarizer = Recurrent(mean=np.zeros(D, np.float32), forward=network.export_forward(), tower=network.tower.export())
    levels, factors = binarizer.encode(text_like(20))
    assert (levels.shape, factors.shape, binarizer.bits) == ((20, 40), (20, 5), 5)
    assert levels.max() > 15


def linear(inputs, outputs):
    rng = np.random.default_rng(inputs)
    return LinearStart(rng.standard_normal((outputs, inputs)).astype(np.float32), np.zeros(outputs, np.float32))
