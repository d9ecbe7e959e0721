"""The encoders of this process: which exist, which are loaded, what failed. Knows nothing of collections."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models import UnknownEncoder, describe_encoders, load_encoder
from service.errors import EncoderLoading, EncoderUnavailable

log = logging.getLogger(__name__)

DEFAULT: Final = "default"
NONE: Final = "none"
MAX_WAIT: Final = 30.0  # seconds that a write waits for an encoder that another one loads


class EncodedTexts(Protocol):
    """Unit vectors (n, d) float32, and whether each text was cut at the model's window, (n,) bool."""

    @property
    def vectors(self) -> NDArray[np.float32]: ...  # noqa: D102
    @property
    def truncated(self) -> NDArray[np.bool_]: ...  # noqa: D102


class TextEncoder(Protocol):
    """What the engine needs of an encoder; `models.Encoder` is one."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def space(self) -> str: ...  # noqa: D102
    @property
    def dimension(self) -> int: ...  # noqa: D102
    @property
    def max_tokens(self) -> int | None: ...  # noqa: D102
    def encode_documents(self, texts: Sequence[str]) -> EncodedTexts: ...  # noqa: D102
    def encode_queries(self, texts: Sequence[str]) -> EncodedTexts: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class EncoderStatus:
    """A line of `GET /encoders`; what is unknown before loading is None."""

    name: str
    state: str
    error: str | None
    space: str | None
    dimension: int | None
    max_tokens: int | None
    details: Mapping[str, Any]


class Encoders:
    """Loads encoders by name, each once, and remembers what failed.

    Parameters
    ----------
    load : loads the encoder of a canonical name; slow; raises ModelError.
    names : the canonical names that clients may use, with what is known of each without loading it.
    default : what the name `default` stands for; None when there is no default.
    """

    def __init__(
        self,
        *,
        load: Callable[[str], TextEncoder],
        names: Mapping[str, Mapping[str, Any]],
        default: str | None,
    ) -> None:
        self._load = load
        self._names: dict[str, Mapping[str, Any]] = ({} if default is None else {default: {}}) | dict(names)
        self.default = default
        self._loaded: dict[str, TextEncoder] = {}
        self._failed: dict[str, str] = {}
        self._locks = {name: threading.Lock() for name in self._names}

    def canonical(self, name: str) -> str:
        """Return the name behind `default`; raises UnknownEncoder for a name that is not on the list."""
        found = self.default if name == DEFAULT else name
        if found is None or found not in self._names:
            raise UnknownEncoder(
                f"there is no encoder {name[:80]!r} here",
                hint=f"use {', '.join([DEFAULT, *self._names])}" if self._names else "send vectors",
            )
        return found

    def start(self) -> None:
        """Begin to load the default encoder in the background."""
        if self.default is not None:
            self._begin(self.default)

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
        """Say whether the default encoder is loaded, or is known not to load."""
        return self.default is None or self.default in self._loaded or self.default in self._failed

    def failures(self) -> dict[str, str]:
        """Return what failed to load, and why."""
        return dict(self._failed)

    def statuses(self) -> list[EncoderStatus]:
        """Describe every encoder without loading one."""
        return [self._status(name) for name in self._names]

    def _status(self, name: str) -> EncoderStatus:
        encoder, error = self._loaded.get(name), self._failed.get(name)
        state = "loaded" if encoder else "failed" if error else "not loaded"
        return EncoderStatus(
            name=name,
            state=state,
            error=error,
            space=encoder.space if encoder else None,
            dimension=encoder.dimension if encoder else None,
            max_tokens=encoder.max_tokens if encoder else None,
            details=self._names[name],
        )


def _loading(name: str) -> EncoderLoading:
    return EncoderLoading(f"encoder {name} is still loading", hint="try again in a few seconds")


def open_encoders(*, default: str, model_dir: Path | None, threads: int) -> Encoders:
    """Return the encoders that a server offers: the presets, the folders of `model_dir`, and the default.

    Parameters
    ----------
    default : a preset or its alias, a folder's name, a model hub id, or `none` for no encoder at all.
    model_dir : a directory of sentence-transformers folders; a folder of an encoder's name is used for it.
    threads : torch threads that encode a load; 0 takes one per core.
    """
    presets = describe_encoders()
    aliases = {alias: preset.name for preset in presets for alias in preset.aliases}
    names: dict[str, Mapping[str, Any]] = {
        preset.name: {"source": preset.source, "license": preset.license} for preset in presets
    }
    folders = {} if model_dir is None else {path.name: path for path in sorted(model_dir.iterdir()) if path.is_dir()}
    for name in folders:
        names[name] = dict(names.get(name, {})) | {"source": "folder"}

    def load(name: str) -> TextEncoder:
        return load_encoder(name, folder=folders.get(name), threads=threads or None)

    if default == NONE:
        return Encoders(load=load, names={}, default=None)
    return Encoders(load=load, names=names, default=aliases.get(default, default))
