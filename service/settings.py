"""Settings of the server and of its clients. The only place that reads the environment.

Every field is the variable `BITFOLD_` plus its name in capitals. A variable with that
prefix that is no setting is an error: a misspelt limit must not be silently without effect.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from service.byte_sizes import parse_bytes

PREFIX: Final = "BITFOLD_"

# docker-compose.yml reads these from the same .env file that it hands to the container.
COMPOSE_VARIABLES: Final = frozenset({"BITFOLD_IMAGE", "BITFOLD_MEMORY", "BITFOLD_CPUS", "BITFOLD_PUBLISHED_PORT"})

_MIB: Final = 1 << 20


class SettingsError(Exception):
    """A setting is unknown, cannot be read, or must not be combined with another."""


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach `host`; a name other than localhost counts as reachable."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _check_key(key: SecretStr | None) -> SecretStr | None:
    if key is not None and re.fullmatch(r"[!-~]+", key.get_secret_value()) is None:
        raise ValueError("a key travels in a header: use printable ASCII characters without spaces")
    return key


class Settings(BaseModel):
    """How the server runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on. Other machines reach the server only on a non-loopback address, "
        "which needs `BITFOLD_API_KEY`.",
    )
    port: int = Field(default=6333, ge=0, le=65_535, description="TCP port; 0 takes a free one.")
    data_dir: Path = Field(
        default=Path("bitfold-data"), description="Directory of all collections; one process owns it."
    )
    api_key: SecretStr | None = Field(
        default=None,
        description="Key that every route but the health checks requires, in the header `api-key` or as bearer token.",
    )
    allow_insecure: bool = Field(default=False, description="Allow a non-loopback address without an API key.")
    encoder: str = Field(
        default="default",
        min_length=1,
        description="Encoder that the name `default` stands for: a preset, the name of a folder in "
        "`BITFOLD_MODEL_DIR`, or a model hub id. `none`: no texts, vectors only.",
    )
    model_dir: Path | None = Field(
        default=None,
        description="Directory of sentence-transformers folders; one named like an encoder is used for it.",
    )
    encoders_file: Path | None = Field(
        default=None,
        description="TOML file that names more encoders, and pairs of a document and a query encoder of one space.",
    )
    runtime: Literal["auto", "torch", "onnx"] = Field(
        default="auto",
        description="What computes encoders: `torch`, `onnx` (ONNX Runtime), or per model the faster one that has it.",
    )
    query_weights: Literal["float32", "int8"] = Field(
        default="float32",
        description="Weights by which models in ONNX Runtime read queries. `int8` takes a quarter less time, but the "
        "vector of a query is then not exactly that of a document of the same text.",
    )
    allow_untrained_sizes: bool = Field(
        default=False,
        description="Allow `params.layers` and `params.dimensions` that an encoder has, but was not trained for.",
    )
    query_cache: int = Field(
        default=10_000,
        ge=0,
        le=10_000_000,
        description="Query texts whose vectors are kept, the last that were used; 0 keeps none.",
    )
    query_batch: int = Field(
        default=32, ge=1, le=1024, description="Query texts of different requests that are encoded together, at most."
    )
    exact_below: int = Field(
        default=10_000,
        ge=0,
        description="Collections of up to so many points are scored exactly unless a query says otherwise.",
    )
    memory_limit: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(parse_bytes)] = Field(
        default=None,
        description="Bytes that all collections may take in memory together (what `GET /collections/{c}/footprint` "
        "counts): a whole number, or as in `512MiB`, `1.5GB`. Points that would go beyond it are refused with 507.",
        json_schema_extra={"shown": "no limit"},
    )
    recall_sample: float = Field(
        default=0.001,
        ge=0,
        le=1,
        description="Share of searches by codes that are run again exactly, when there is time, to measure recall.",
    )
    max_body_bytes: int = Field(
        default=32 * _MIB, ge=1024, le=1 << 30, description="Largest JSON body; bulk bodies have no limit."
    )
    max_bodies_bytes: int = Field(
        default=128 * _MIB,
        ge=1024,
        description="Bytes that JSON bodies under way may hold together, but at least one of the largest; "
        "more get 429.",
    )
    body_idle_s: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="Seconds without a byte of a body, JSON or bulk, after which the request ends with 408.",
    )
    max_line_bytes: int = Field(default=4 * _MIB, ge=1024, le=64 * _MIB, description="Longest line of a bulk body.")
    max_text_bytes: int = Field(
        default=_MIB, ge=1, le=64 * _MIB, description="Longest text of a point or a query, in UTF-8 bytes."
    )
    max_limit: int = Field(default=10_000, ge=1, le=1_000_000, description="Largest limit + offset.")
    max_batch: int = Field(default=10_000, ge=1, le=1_000_000, description="Most points or ids in one JSON request.")
    max_queries: int = Field(default=100, ge=1, le=10_000, description="Most queries in one batch request.")
    search_timeout_ms: int = Field(
        default=30_000, ge=1, le=3_600_000, description="Milliseconds that a search may take; then 408."
    )
    search_threads: int = Field(
        default_factory=lambda: max(2, usable_cores()),
        ge=1,
        le=256,
        description="Searches that run at once, and other reads; texts that wait for their encoder do not count.",
        json_schema_extra={"shown": "1 per core, at least 2"},
    )
    max_queued: int = Field(
        default=256, ge=0, le=100_000, description="Requests that may wait for a thread; more get 429."
    )
    max_concurrent_bulk: int = Field(default=2, ge=1, le=64, description="Bulk loads that run at once; more get 429.")
    bulk_batch: int = Field(
        default=1024, ge=1, le=65_536, description="Lines of a bulk body that become durable together, about."
    )
    parser_processes: int = Field(
        default=1, ge=1, le=64, description="Processes that parse bulk bodies, started on first use."
    )
    parser_nice: int = Field(
        default=10, ge=0, le=19, description="How far these processes step back behind searches (`nice`)."
    )
    training_nice: int = Field(
        default=10, ge=0, le=19, description="How far a process that trains steps back behind searches (`nice`)."
    )
    index_threads: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Threads that all searches share for segments of one query and queries of one batch.",
    )
    encoder_threads: int = Field(
        default=0, ge=0, le=256, description="Threads that encode texts, in any runtime; 0: one per core."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    _key = field_validator("api_key")(_check_key)

    @model_validator(mode="after")
    def _check_weights(self) -> Settings:
        if self.query_weights == "int8" and self.runtime == "torch":
            raise ValueError(
                f"{PREFIX}QUERY_WEIGHTS is int8, which only ONNX Runtime has, and {PREFIX}RUNTIME is torch"
            )
        return self

    @model_validator(mode="after")
    def _check_exposure(self) -> Settings:
        if not is_loopback(self.host) and self.api_key is None and not self.allow_insecure:
            raise ValueError(
                f"{PREFIX}HOST is {self.host}, which other machines can reach, and there is no API key: set "
                f"{PREFIX}API_KEY, or {PREFIX}ALLOW_INSECURE=true when something else guards the server"
            )
        return self


class ClientSettings(BaseModel):
    """How the command line finds the server."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    url: str = Field(
        default="http://127.0.0.1:6333",
        pattern=r"^https?://[^/\s]+",
        description="Server that the command line talks to.",
        json_schema_extra={"shown": "from host and port"},
    )
    api_key: SecretStr | None = Field(default=None, description="Sent with every request.")
    client_timeout_s: float = Field(
        default=600.0, gt=0, le=86_400, description="Seconds that the command line waits for an answer."
    )

    _key = field_validator("api_key")(_check_key)


S = TypeVar("S", Settings, ClientSettings)


def load_settings(environ: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Return the server's settings from the environment.

    Parameters
    ----------
    environ : the variables; None reads those of the process. Empty ones count as not set.
    overrides : fields that win over the environment; None leaves a field alone.

    Raises
    ------
    SettingsError : unknown variable, value out of range, or a reachable address without a key.
    """
    return _load(Settings, os.environ if environ is None else environ, overrides)


def load_client_settings(environ: Mapping[str, str] | None = None, **overrides: object) -> ClientSettings:
    """Return the client's settings; without `BITFOLD_URL` they follow the server's host and port.

    Parameters and errors are those of `load_settings`.
    """
    environ = os.environ if environ is None else environ
    if overrides.get("url") is None and not environ.get(f"{PREFIX}URL"):
        host = environ.get(f"{PREFIX}HOST") or "127.0.0.1"
        # An address that stands for all of this machine's addresses is none to connect to.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))
        host = f"[{host}]" if ":" in host else host
        overrides["url"] = f"http://{host}:{environ.get(f'{PREFIX}PORT') or 6333}"
    return _load(ClientSettings, environ, overrides)


def settings_table() -> str:
    """Return the Markdown table of all settings, as README.md shows it."""
    lines = ["| Variable | Default | Meaning |", "| --- | --- | --- |"]
    fields = dict(Settings.model_fields)
    fields |= {name: field for name, field in ClientSettings.model_fields.items() if name not in fields}
    for name, field in fields.items():
        extra = field.json_schema_extra
        shown = extra.get("shown") if isinstance(extra, dict) else None
        default = "" if field.default is None else field.default
        value = shown or (str(default).lower() if isinstance(default, bool) else default)
        lines.append(f"| `{PREFIX}{name.upper()}` | {value} | {field.description} |")
    return "\n".join(lines)


def _load(model: type[S], environ: Mapping[str, str], overrides: Mapping[str, Any]) -> S:
    known = {PREFIX + name.upper() for name in (*Settings.model_fields, *ClientSettings.model_fields)}
    values: dict[str, Any] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in COMPOSE_VARIABLES:
            continue
        if variable not in known:
            near = difflib.get_close_matches(variable, sorted(known), n=1, cutoff=0.5)
            advice = f"did you mean {near[0]}?" if near else "README.md lists the settings"
            raise SettingsError(f"{variable} is no setting: {advice}")
        field = variable.removeprefix(PREFIX).lower()
        if value and field in model.model_fields:
            values[field] = value
    values |= {field: value for field, value in overrides.items() if value is not None}
    try:
        return model(**values)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(item) for item in error.errors(include_url=False))) from None


def _explain(item: ErrorDetails) -> str:
    """Put one of pydantic's complaints as the variable, what is wrong, and the value unless it is the key."""
    message = str(item["msg"]).removeprefix("Value error, ")
    if not item["loc"]:
        return message
    name = str(item["loc"][0])
    got = "" if name == "api_key" else f" (it is {str(item['input'])!r})"
    return f"{PREFIX}{name.upper()}: {message}{got}"
