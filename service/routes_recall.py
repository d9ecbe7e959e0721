"""What share of the true nearest points searches find: measured of live queries, now, and foretold by targets."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from index.calibration import DEPTH, Calibration
from index.meter import RecallReport
from index.metering import measure_now
from index.points import SearchParams
from service.context import answer, answer_body, page, query_string, services
from service.direct import Direct
from service.openapi import OBJECT, documented
from service.queries import parsed
from service.responses import ApiError
from service.routes_search import to_params
from service.schemas_collections import MeasureRecall

router = APIRouter(tags=["collections"], route_class=Direct)
_TARGETS: Final = (0.9, 0.95, 0.97, 0.98, 0.99, 0.995)


@router.get(
    "/collections/{collection}/recall",
    **documented("Report the recall of searches, and what lost the rest", result=OBJECT),
)
async def reported(request: Request, collection: str) -> Response:
    """Answer with what was measured of live queries, and how wide stages are for some targets."""
    service = services(request)
    asked = query_string(request, (), read=True)

    def read() -> dict[str, Any]:
        with service.engine.catalog.using(collection) as found:
            return {"live": _shown(found.meter.report()), "calibration": _calibrated(found.calibration)}

    return await answer(request, service.reads, asked, read)


@router.post(
    "/collections/{collection}/recall",
    **documented("Measure the recall of searches now", body=MeasureRecall, query=("timeout",), result=OBJECT),
)
async def measured(request: Request, collection: str) -> Response:
    """Run queries by codes and exactly; answer with recall@limit and what lost the rest."""
    service = services(request)
    asked = query_string(request, ("timeout",), read=True)

    def run(body: MeasureRecall) -> dict[str, Any]:
        limit, _ = page(service.settings, body.limit)
        params = _params(body)
        with service.engine.catalog.using(collection) as found:
            report = measure_now(
                found, body.queries, limit, filter=parsed(body.filter), params=params, deadline=asked.deadline
            )
        if report.queries < body.queries:
            asked.warnings.append(f"{report.queries} of {body.queries} queries were measured: time or points ran out")
        return {"limit": limit} | _shown(report)

    return await answer_body(request, service.searches, asked, MeasureRecall, run)


def _params(body: MeasureRecall) -> SearchParams:
    if body.params is None:
        return SearchParams(exact=False)
    for key in ("exact", "layers", "dimensions"):
        if getattr(body.params, key) is not None:
            raise ApiError(
                400,
                "invalid_request",
                f"params.{key} has no sense here: vectors are searched by codes, and compared with an exact search",
                param=f"params.{key}",
                hint="leave it out",
            )
    return replace(to_params(body.params), exact=False)


def _shown(report: RecallReport) -> dict[str, Any]:
    return asdict(report)


def _calibrated(calibration: Calibration | None) -> dict[str, Any] | None:
    if calibration is None:
        return None
    targets = [{"target_recall": target} | asdict(calibration.settled(target)) for target in _TARGETS]
    return {"shape": asdict(calibration.shape), "queries": len(calibration.near.ranks) // DEPTH, "targets": targets}
