"""How many bytes a collection takes, and how many one to come would take."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from index.footprint import Footprint, footprint, foretell
from service.context import answer, answer_body, query_string, services
from service.direct import Direct
from service.memory import process_memory
from service.openapi import OBJECT, documented
from service.room import Room
from service.routes_collections import configured
from service.schemas_collections import Plan

router = APIRouter(tags=["collections"], route_class=Direct)


@router.get(
    "/collections/{collection}/footprint",
    **documented("Count a collection's bytes in memory and on disk, part by part", result=OBJECT),
)
async def counted(request: Request, collection: str) -> Response:
    """Answer with bytes by part; `process` is all that this process holds, whatever for, `server` as in a plan."""
    service = services(request)
    asked = query_string(request, (), read=True)

    def count() -> dict[str, Any]:
        with service.engine.catalog.using(collection) as found:
            shown = _shown(footprint(found), found.view.points)
            return shown | {"process": process_memory(), "server": _server(service.engine.room)}

    return await answer(request, service.reads, asked, count)


@router.post(
    "/collections/plan",
    **documented("Foretell the bytes of a collection to come", body=Plan, result=OBJECT),
)
async def planned(request: Request) -> Response:
    """Answer with the bytes that so many points will take at rest; nothing is made.

    `server`: bytes of memory that all collections take now, and may take, and bytes that are free on the disk.
    """
    service = services(request)
    asked = query_string(request, ())

    def plan(body: Plan) -> dict[str, Any]:
        config = configured(service.engine.catalog, body)
        found = foretell(
            body.points,
            config,
            service.engine.options,
            payload_bytes=body.payload_bytes,
            text_bytes=body.text_bytes,
            payload_indexes=body.payload_indexes,
        )
        return _shown(found, body.points) | {"server": _server(service.engine.room)}

    return await answer_body(request, service.reads, asked, Plan, plan)


def _server(room: Room) -> dict[str, int | None]:
    use = room.memory()
    return {"memory": sum(use.collections.values()), "memory_limit": use.limit, "disk_free": room.disk_free()}


def _shown(found: Footprint, points: int) -> dict[str, Any]:
    shown: dict[str, Any] = {"points": points}
    for name, parts in (("memory", found.memory), ("disk", found.disk)):
        total = sum(parts.values())
        shown[name] = parts | {"total": total, "per_point": round(total / points, 2) if points else None}
    return shown
