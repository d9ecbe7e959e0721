"""Versions of the binarizer: fitting a new one as a collection grows, coding again what older ones coded.

Bringing in a trained one is `Collection.adopt`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from index.binarizer import Binarizer
from index.collection import Collection
from index.merging import CODED_FOR_GOOD, alive_rows, merge
from index.points import Rows
from index.record import Writer

REFIT_GROWTH = 4  # a merge this many times larger than what the binarizer was fitted to fits a new one


class _Stop(Exception):
    """Ends a piece of work that is no longer wanted."""


def version_for(collection: Collection, alive: Rows) -> int:
    """Return the version to code rows with: the newest, or a new one when the collection has outgrown it."""
    view = collection.view
    newest = max(view.binarizers)
    with collection.record.snapshot() as reader:
        fitted_on = {version: points for version, points, *_ in reader.binarizers()}
    if view.binarizers[newest].learned or len(alive) < REFIT_GROWTH * fitted_on.get(newest, 0):
        return newest
    binarizer = collection.fit(view, alive)

    def work(writer: Writer) -> Callable[[], None]:
        now = collection.view
        if max(now.binarizers) != newest:
            raise _Stop  # another one was adopted meanwhile
        version = writer.add_binarizer(len(alive), binarizer.to_bytes())
        used = {segment.binarizer for segment in now.segments}
        kept = {old: now.binarizers[old] for old in used} | {version: binarizer}
        writer.drop_binarizers(kept)
        return partial(collection.show, replace(now, seq=now.seq + 1, binarizers=kept))

    try:
        collection.committer.exclusive(work)
    except _Stop:
        pass
    return max(collection.view.binarizers)


def upgrade(
    collection: Collection,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> bool:
    """Code again, from stored vectors, what an older binarizer coded. Searches and writes go on meanwhile.

    One segment at a time is built and swapped in, so what is done stays done if this ends early; called again, it
    goes on. At the end, binarizers that nothing uses any more are forgotten.

    Parameters
    ----------
    on_progress : called with the points that the newest binarizer codes and the points that have codes.
    cancelled : asked after every few thousand rows.

    Returns
    -------
    Whether everything is coded by the newest binarizer.

    Raises
    ------
    VectorsDropped : points coded by an older one have no vectors any more; then nothing is coded again.
    """

    def watch(done: int) -> None:
        on_progress(coded + done, total)
        if cancelled():
            raise _Stop

    while True:
        with collection.upkeep:
            if collection.closed or collection.committer.read_only:
                return False
            view = collection.view
            newest = max(view.binarizers, default=0)
            old = [segment for segment in view.segments if segment.binarizer != newest]
            total = sum(segment.count for segment in view.segments)
            coded = total - sum(segment.count for segment in old)
            view.require_vectors(alive_rows(old), hint=CODED_FOR_GOOD)
            if not old:
                _forget_unused(collection)
                on_progress(total, total)
                return True
            try:
                watch(0)  # also where a segment holds no vectors any more
                merge(collection, old[:1], newest, watch)
            except _Stop:
                return False


def _forget_unused(collection: Collection) -> None:
    """Drop binarizers that no segment uses, but never the newest: its number must not be given again."""

    def kept() -> dict[int, Binarizer]:
        view = collection.view
        used = {segment.binarizer for segment in view.segments} | {max(view.binarizers, default=0)}
        return {version: binarizer for version, binarizer in view.binarizers.items() if version in used}

    def work(writer: Writer) -> Callable[[], None]:
        left = kept()
        writer.drop_binarizers(left)
        return partial(collection.show, replace(collection.view, seq=collection.view.seq + 1, binarizers=left))

    if len(kept()) < len(collection.view.binarizers):
        collection.committer.exclusive(work)
