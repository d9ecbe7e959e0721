"""The sizes that an encoder may be cut to: what is valid, what is meant, what is refused."""

from __future__ import annotations

import json

import pytest

from models import CorruptModel, Sizes, UnsupportedSize
from models.sizes import declared_exits, fold_dimensions, read_sizes

FREE = Sizes((0, 2, 6), (32, 64, 384))
STARBUCKS = Sizes((2, 4, 6), (32, 64, 128), ((2, 32), (4, 32), (4, 64), (6, 128)))


@pytest.mark.parametrize(
    ("layers", "dimensions", "meant"),
    [(None, None, (6, 384)), (0, None, (0, 384)), (None, 64, (6, 64)), (2, 32, (2, 32)), (6, 384, (6, 384))],
)
def test_any_combination_of_what_is_listed(layers, dimensions, meant):
    assert FREE.resolve(layers, dimensions) == meant
    assert FREE.resolve(*meant) == meant


@pytest.mark.parametrize(
    ("layers", "dimensions", "meant"),
    [
        (None, None, (6, 128)),
        (2, None, (2, 32)),
        (None, 64, (4, 64)),
        (4, None, (4, 64)),  # the largest of two
        (None, 32, (4, 32)),
        (4, 32, (4, 32)),
    ],
)
def test_with_pairs_one_number_means_the_pair_that_has_it(layers, dimensions, meant):
    assert STARBUCKS.resolve(layers, dimensions) == meant


@pytest.mark.parametrize("size", [(1, None), (None, 100), (1, 64), (2, 385), (-1, None), (None, 0), (7, None)])
def test_what_is_not_listed_is_refused_with_what_is(size):
    with pytest.raises(UnsupportedSize, match=r"layers 0, 2, 6 and dimensions 32, 64, 384") as caught:
        FREE.resolve(*size)
    assert str(next(value for value in size if value is not None)) in str(caught.value)
    assert "None" not in str(caught.value)


@pytest.mark.parametrize("size", [(2, 64), (6, 64), (5, None), (None, 128 + 1)])
def test_what_is_no_pair_is_refused_with_the_pairs(size):
    with pytest.raises(UnsupportedSize, match=r"\(2, 32\), \(4, 32\), \(4, 64\), \(6, 128\)"):
        STARBUCKS.resolve(*size)


@pytest.mark.parametrize("sizes", [FREE, STARBUCKS])
def test_untrained_sizes_only_when_allowed_and_within_the_model(sizes):
    full = sizes.full
    for size in ((1, 5), (0, 1), (3, full[1]), full):
        assert sizes.resolve(*size, untrained=True) == size
    assert sizes.resolve(3, None, untrained=True) == (3, full[1])
    for size in ((full[0] + 1, 5), (1, full[1] + 1), (1, 0), (-1, 1)):
        with pytest.raises(UnsupportedSize, match=f"layers 0 to {full[0]} and dimensions 1 to {full[1]}"):
            sizes.resolve(*size, untrained=True)


@pytest.mark.parametrize(
    ("layers", "dimensions", "pairs", "match"),
    [
        ((), (1,), None, "layers must be ascending"),
        ((2, 1), (1,), None, r"layers must be ascending whole numbers from 0 on, not \[2, 1\]"),
        ((1, 1), (1,), None, "layers"),
        ((-1, 1), (1,), None, "layers"),
        ((1,), (0, 1), None, "dimensions must be ascending whole numbers from 1 on"),
        ((1,), (1.5,), None, "dimensions"),
        ((True,), (1,), None, "layers"),
        ((1, 2), (3, 4), ((1, 3),), r"lack the full size \[2, 4\]"),
        ((1, 2), (3, 4), ((2, 4), (1, 5)), r"pair \[1, 5\]"),
        ((1, 2), (3, 4), ((2, 4), (1,)), r"pair \[1\]"),
    ],
)
def test_sizes_that_make_no_sense(layers, dimensions, pairs, match):
    with pytest.raises(ValueError, match=match):
        Sizes(layers, dimensions, pairs)


@pytest.mark.parametrize("sizes", [FREE, STARBUCKS, Sizes.only(0, 8)])
def test_json_and_back(sizes):
    assert Sizes.from_json(json.loads(json.dumps(sizes.as_json()))) == sizes


def test_a_folded_space_offers_the_usual_lengths():
    assert fold_dimensions(384) == (32, 64, 96, 128, 192, 256, 384)
    assert fold_dimensions(100) == (32, 64, 96, 100)
    assert fold_dimensions(16) == (16,)


def test_sizes_of_a_folder(tmp_path):
    assert read_sizes(tmp_path, layers=6, dimension=128) is None
    assert declared_exits(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"matryoshka_dimensions": [16]}))
    assert read_sizes(tmp_path, layers=6, dimension=128) == Sizes((6,), (16, 128))
    library = tmp_path / "config_sentence_transformers.json"
    library.write_text(json.dumps({"matryoshka_dims": [128, 64, 32]}))
    assert read_sizes(tmp_path, layers=6, dimension=128) == Sizes((6,), (32, 64, 128))
    assert declared_exits(tmp_path) is None
    (tmp_path / "bitfold_sizes.json").write_text(json.dumps(STARBUCKS.as_json()))
    assert read_sizes(tmp_path, layers=6, dimension=128) == STARBUCKS
    assert declared_exits(tmp_path) == (2, 4, 6)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("bitfold_sizes.json", "{", "bitfold_sizes.json does not name sizes"),
        ("bitfold_sizes.json", "[]", "not an object"),
        ("bitfold_sizes.json", '{"layers": [6], "dimensions": [128], "more": 1}', "not an object with"),
        ("bitfold_sizes.json", '{"layers": 6, "dimensions": [128]}', "must be lists"),
        ("bitfold_sizes.json", '{"layers": ["a", 6], "dimensions": [128]}', "does not name sizes"),
        ("bitfold_sizes.json", '{"layers": [6], "dimensions": [128], "pairs": [6]}', "must be lists"),
        (
            "bitfold_sizes.json",
            '{"layers": [4], "dimensions": [128]}',
            r"full size is \[4, 128\], the model's is \[6, 128\]",
        ),
        (
            "config.json",
            '{"matryoshka_dimensions": "all"}',
            "config.json does not name sizes: dimensions must be a list",
        ),
        ("config.json", '{"matryoshka_dimensions": [256]}', "256 dimensions are more than the model's 128"),
        ("config_sentence_transformers.json", '{"matryoshka_dims": [0]}', "from 1 on"),
    ],
)
def test_files_that_name_no_sizes(tmp_path, name, content, match):
    (tmp_path / name).write_text(content)
    with pytest.raises(CorruptModel, match=match):
        read_sizes(tmp_path, layers=6, dimension=128)
