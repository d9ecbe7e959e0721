"""What the tests of several binarizers in one collection share: which are where, what must be found, a kill."""

from __future__ import annotations

import shutil

from index.points import SearchParams
from tests.index_fakes import check_hits, contents, open_store, vectors_of

CODES = SearchParams(exact=False)
QUERIES = vectors_of(4, 99)
MORE_BITS = {"bits": 4, "seed": 3}


def versions_of(collection):
    return [segment.binarizer for segment in collection.view.segments]


def stored_versions(collection):
    with collection.record.snapshot() as reader:
        return [version for version, *_ in reader.binarizers()]


def sound(collection, left):
    """Check that searches that may read everything find exactly what is left."""
    assert set(contents(collection)) == set(left)
    for query in QUERIES:
        for params in (None, CODES, SearchParams(exact=False, symmetric=True)):
            hits = collection.search(query[None], len(left) + 5, params=params)[0].hits
            check_hits(hits, query, left, len(left) + 5, collection.config.distance)


def reopened(store, factory=None):
    store.close()
    return open_store(store.directory, factory)


class Crash(BaseException):
    """What ends a process: nobody handles it."""


def crash(*_args, **_more):
    raise Crash


def killed(store, tmp_path):
    """What lies on disk at this moment, opened as after a SIGKILL."""
    copy = shutil.copytree(store.directory, tmp_path / "killed")
    (copy / "LOCK").unlink()
    return copy
