"""Builds the application: parts, routes, error handlers, start and end. Nothing here or below is global."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from index.errors import IndexingError
from index.options import StoreOptions
from models import ModelError
from service import (
    openapi,
    routes_collections,
    routes_footprint,
    routes_jobs,
    routes_native,
    routes_openai,
    routes_points,
    routes_recall,
    routes_search,
)
from service.candidates import Candidates
from service.context import Services
from service.encoders import Encoders
from service.engine import Engine
from service.errors import EngineError
from service.jobs import Jobs
from service.limits import Budget, Gate, Pool, Slots
from service.metrics import Metrics
from service.open_encoders import open_encoders
from service.parser_pool import ParserPool
from service.query_cache import QueryCache
from service.query_encoding import QueryEncoding
from service.responses import ApiError, described, on_disconnect, on_error, on_http_error
from service.settings import Settings, usable_cores
from service.trainer import train_in_process
from service.training import Training
from service.version import TITLE, bitfold_version

log = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 30
KEEP_ALIVE_SECONDS: Final = 60
WRITE_THREADS: Final = 8  # writes that wait together share one commit
EMBEDDING_THREADS: Final = 8  # they wait for the encoder's own threads; a small request need not wait for a large one
_DESCRIPTION: Final = (
    "Vector search with compressed embeddings: text or vectors in, a few bits per dimension in memory. "
    "Compatible with a subset of the Qdrant REST API."
)


def create_app(settings: Settings, *, encoders: Encoders | None = None, options: StoreOptions | None = None) -> FastAPI:
    """Return the application; collections are opened and threads started when it starts.

    Parameters
    ----------
    encoders : None offers what the settings name.
    options : how collections work; None takes the defaults with what the settings say.

    Raises
    ------
    ModelError
        The settings name a directory or a file of encoders that cannot be read.
    """
    if encoders is None:
        encoders = open_encoders(
            default=settings.encoder,
            model_dir=settings.model_dir,
            file=settings.encoders_file,
            threads=settings.encoder_threads,
            runtime=settings.runtime,
            allow_untrained=settings.allow_untrained_sizes,
            query_weights=settings.query_weights,
        )
    metrics = Metrics()
    app = FastAPI(
        title=TITLE.capitalize(),
        version=bitfold_version(),
        description=_DESCRIPTION,
        lifespan=_lifespan(settings, metrics, encoders, options),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for router in (
        routes_native.health,
        routes_native.router,
        routes_search.router,
        routes_openai.router,
        routes_collections.router,
        routes_footprint.router,
        routes_recall.router,
        routes_points.router,
        routes_jobs.router,
    ):
        # Not `include_router`: it puts a second matching of paths before every request.
        app.router.routes.extend(router.routes)
    for family in (ApiError, IndexingError, ModelError, EngineError, Exception):
        app.add_exception_handler(family, on_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    key = settings.api_key.get_secret_value() if settings.api_key else None
    app.add_middleware(Gate, api_key=key, metrics=metrics)
    app.openapi = _document(app, guarded=key is not None)  # type: ignore[method-assign]
    return app


def _document(app: FastAPI, *, guarded: bool) -> Callable[[], dict[str, Any]]:
    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi.build(app, guarded=guarded)
        return app.openapi_schema

    return document


def _lifespan(
    settings: Settings, metrics: Metrics, encoders: Encoders, options: StoreOptions | None
) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Services]]:
        async with AsyncExitStack() as stack:
            engine = await asyncio.to_thread(_open_engine, settings, encoders, options)
            # Closed last: the pools below finish what runs in them first.
            stack.push_async_callback(asyncio.to_thread, engine.close)
            parsers = ParserPool(workers=settings.parser_processes, nice=settings.parser_nice)
            stack.push_async_callback(asyncio.to_thread, parsers.close)

            def pool(name: str, threads: int, queue: int) -> Pool:
                made = Pool(name, threads=threads, queue=queue)
                stack.push_async_callback(asyncio.to_thread, made.close)
                return made

            training = Training(
                engine.catalog,
                Candidates(engine.catalog, engine.factory),
                partial(train_in_process, nice=settings.training_nice),
            )
            jobs = await asyncio.to_thread(_open_jobs, settings, training)
            stack.push_async_callback(asyncio.to_thread, jobs.close)
            metrics.watch(engine.catalog.sizes, jobs.counts, engine.encoding.counts, engine.room.memory)
            engine.start()
            loads = settings.max_concurrent_bulk
            waiting = min(settings.query_batch, settings.max_queued)
            services = Services(
                settings=settings,
                engine=engine,
                metrics=metrics,
                # More threads than may search at once: what waits for an encoder is encoded together.
                searches=pool("search", settings.search_threads + waiting, settings.max_queued - waiting),
                reads=pool("read", settings.search_threads, settings.max_queued),
                writes=pool("write", WRITE_THREADS, settings.max_queued),
                embeddings=pool("embedding", EMBEDDING_THREADS, settings.max_queued),
                bulk=pool("bulk", loads, loads),
                parsing=pool("parsing", settings.parser_processes, loads),
                loads=Slots("bulk", loads),
                bodies=Budget("body", max(settings.max_bodies_bytes, settings.max_body_bytes)),
                parsers=parsers,
                jobs=jobs,
                training=training,
            )
            jobs.start()
            log.info("ready; the routes are listed at http://%s:%d/docs", settings.host, settings.port)
            yield {"services": services}
            log.info("closing")

    return lifespan


def _open_engine(settings: Settings, encoders: Encoders, options: StoreOptions | None) -> Engine:
    return Engine(
        data_dir=settings.data_dir,
        encoders=encoders,
        encoding=QueryEncoding(
            cache=QueryCache(entries=settings.query_cache),
            most_batch=settings.query_batch,
            at_once=settings.encoder_threads or usable_cores(),
        ),
        options=options
        or StoreOptions(
            exact_below=settings.exact_below,
            recall_sample=settings.recall_sample,
            memory_limit=settings.memory_limit,
            threads=settings.index_threads,
        ),
        searches_at_once=settings.search_threads,
    )


def _open_jobs(settings: Settings, training: Training) -> Jobs:
    runners = {"train": training.train, "upgrade": training.upgrade}
    return Jobs(settings.data_dir / "jobs", runners, describe=described)


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return how uvicorn serves the application; SIGTERM lets requests under way finish, for at most 30 s."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
