"""The encoders of this process: which exist, which are loaded, what failed. Knows nothing of collections."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from models import Sizes, UnknownEncoder
from service.errors import EncoderLoading, EncoderUnavailable
from service.text_encoder import TextEncoder

log = logging.getLogger(__name__)

DEFAULT: Final = "default"
NONE: Final = "none"
MAX_WAIT: Final = 30.0  # seconds that a write waits for an encoder that another one loads


class Pair(NamedTuple):
    """The names of two encoders that share a space: one for what is stored, one for what is asked."""

    document: str
    query: str


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of an encoder before it is loaded; None is unknown.

    Parameters
    ----------
    role : `teacher`, `student` or `static` of a space that several encoders share, else `plain`.
    details : what else is worth showing, as its source and licence.
    """

    space: str | None = None
    dimension: int | None = None
    max_tokens: int | None = None
    sizes: Sizes | None = None
    runtime: str | None = None
    role: str = "plain"
    details: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class EncoderStatus:
    """A line of `GET /encoders`; what is unknown before loading is None."""

    name: str
    state: str
    error: str | None
    space: str | None
    dimension: int | None
    max_tokens: int | None
    sizes: Mapping[str, Any] | None
    runtime: str | None
    role: str
    details: Mapping[str, Any]


class Encoders:
    """Loads encoders by name, each once, and remembers what failed.

    Parameters
    ----------
    load : loads the encoder of a canonical name; slow; raises ModelError.
    names : the canonical names that clients may use, with what is known of each without loading it.
    default : what the name `default` stands for, an encoder or a pair; None when there is no default.
    pairs : names that stand for two encoders. Such a name may be an encoder's too, which `document` and `query`
        of a collection then mean.
    aliases : other names of encoders and pairs.
    """

    def __init__(
        self,
        *,
        load: Callable[[str], TextEncoder],
        names: Mapping[str, Known],
        default: str | None,
        pairs: Mapping[str, Pair] | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._load = load
        self._pairs = dict(pairs or {})
        alone = {} if default is None or default in self._pairs else {default: Known()}
        self._names: dict[str, Known] = alone | dict(names)
        self._aliases = dict(aliases or {})
        self.default = default
        self._loaded: dict[str, TextEncoder] = {}
        self._failed: dict[str, str] = {}
        self._locks = {name: threading.Lock() for name in self._names}
        self._awaited: set[str] = set() if default is None else set(self.pair(default))

    def canonical(self, name: str) -> str:
        """Return the name of the encoder behind an alias; a name that is only a pair's means its document encoder.

        Raises UnknownEncoder for a name that is not on the list.
        """
        found = self.default if name == DEFAULT else self._aliases.get(name, name)
        if found in self._names:
            return found
        if found in self._pairs:
            return self._pairs[found].document
        known = dict.fromkeys([DEFAULT, *self._names, *self._pairs, *self._aliases])
        raise UnknownEncoder(
            f"there is no encoder {name[:80]!r} here",
            hint=f"use {', '.join(known)}" if self._names else "send vectors",
        )

    def pair(self, name: str) -> Pair:
        """Return the two encoders that a name stands for: those of a pair, else the encoder itself on both sides."""
        found = self.default if name == DEFAULT else self._aliases.get(name, name)
        if found in self._pairs:
            return self._pairs[found]
        one = self.canonical(name)
        return Pair(one, one)

    def pairs(self) -> dict[str, Pair]:
        """Return the names that stand for two encoders."""
        return dict(self._pairs)

    def space(self, name: str) -> str | None:
        """Return the space of an encoder as far as it is known without loading it; raises UnknownEncoder."""
        name = self.canonical(name)
        loaded = self._loaded.get(name)
        return self._names[name].space if loaded is None else loaded.space

    def loaded(self, name: str) -> TextEncoder | None:
        """Return an encoder if it is loaded now; raises UnknownEncoder."""
        return self._loaded.get(self.canonical(name))

    def start(self, names: Iterable[str] = (), *, then: Callable[[], None] | None = None) -> None:
        """Begin to load encoders in the background, one after the other: those of the default, and others.

        Parameters
        ----------
        names : what else is going to be needed; those that are not on the list are left out.
        then : called in that thread when all are loaded or have failed.
        """
        wanted = [] if self.default is None else [*self.pair(self.default)]
        wanted += [self.canonical(name) for name in names if self.has(name)]
        self._awaited |= set(wanted)

        def load() -> None:
            for name in dict.fromkeys(wanted):
                self._try(name)
            if then is not None:
                then()

        threading.Thread(target=load, name="load-encoders", daemon=True).start()

    def has(self, name: str) -> bool:
        """Say whether a name is on the list."""
        try:
            self.canonical(name)
        except UnknownEncoder:
            return False
        return True

    def _begin(self, name: str) -> None:
        threading.Thread(target=self._try, args=(name,), name="load-encoder", daemon=True).start()

    def _try(self, name: str) -> None:
        try:
            self.get(name)
        except EncoderUnavailable as error:
            log.warning("%s", error)

    def get(self, name: str, *, wait: float = MAX_WAIT) -> TextEncoder:
        """Return an encoder, loading it first if need be (seconds).

        Parameters
        ----------
        wait : seconds to wait while another thread loads it. With 0 nothing is waited for: when it is not
            loaded, loading begins in the background and this raises.

        Raises
        ------
        UnknownEncoder
            It is not on the list.
        EncoderLoading
            It is not loaded yet.
        EncoderUnavailable
            Loading fails or failed before.
        """
        name = self.canonical(name)
        encoder = self._loaded.get(name)
        if encoder is not None:
            return encoder
        if name not in self._failed:
            self._obtain(name, wait)
        if name in self._failed:
            raise EncoderUnavailable(
                f"encoder {name} failed to load: {self._failed[name]}",
                hint="collections of vectors work; repair the model and restart to use texts",
            )
        return self._loaded[name]

    def _obtain(self, name: str, wait: float) -> None:
        lock = self._locks[name]
        if wait <= 0:
            if not lock.locked():
                self._begin(name)
            raise _loading(name)
        if not lock.acquire(timeout=wait):
            raise _loading(name)
        try:
            if name not in self._loaded and name not in self._failed:
                self._load_once(name)
        finally:
            lock.release()

    def _load_once(self, name: str) -> None:
        try:
            self._loaded[name] = self._load(name)
        except Exception as error:  # whatever a model's files make its library raise, vectors stay searchable
            log.exception("encoder %s failed to load", name)
            self._failed[name] = str(error) or type(error).__name__

    def settled(self) -> bool:
        """Say whether all that is loaded at the start is loaded, or is known not to load."""
        return all(name in self._loaded or name in self._failed for name in self._awaited)

    def failures(self) -> dict[str, str]:
        """Return what failed to load, and why."""
        return dict(self._failed)

    def statuses(self) -> list[EncoderStatus]:
        """Describe every encoder without loading one."""
        return [self._status(name) for name in self._names]

    def _status(self, name: str) -> EncoderStatus:
        encoder, error, known = self._loaded.get(name), self._failed.get(name), self._names[name]
        loading = self._locks[name].locked()
        sizes = encoder.sizes if encoder else known.sizes
        return EncoderStatus(
            name=name,
            state="loaded" if encoder else "failed" if error else "loading" if loading else "not loaded",
            error=error,
            space=encoder.space if encoder else known.space,
            dimension=encoder.dimension if encoder else known.dimension,
            max_tokens=encoder.max_tokens if encoder else known.max_tokens,
            sizes=sizes.as_json() if sizes else None,
            runtime=encoder.runtime if encoder else known.runtime,
            role=known.role,
            details=known.details or {},
        )


def _loading(name: str) -> EncoderLoading:
    return EncoderLoading(f"encoder {name} is still loading", hint="try again in a few seconds")
