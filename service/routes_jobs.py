"""Jobs about binarizers: train one, give old codes the newest one, bring one along; and what became of jobs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.context import BINARIZER, answer, answer_body, answer_bytes, query_string, services
from service.direct import Direct
from service.job import Job
from service.openapi import OBJECT, documented, fields, list_of, ref
from service.responses import envelope
from service.schemas_collections import Train, Upgrade

router = APIRouter(tags=["jobs"], route_class=Direct)


@router.post(
    "/collections/{collection}/train",
    **documented(
        "Train a binarizer on a sample of a collection, as a job",
        body=Train, result=ref("Job"), writes=True, status=202, errors=(409,),
    ),
)  # fmt: skip
async def train(request: Request, collection: str) -> Response:
    """Queue a training; searches go on. What was trained is used when, on sampled queries, it finds no less."""
    service = services(request)
    asked = query_string(request, ())
    queued: list[Job] = []

    def queue(body: Train) -> Job:
        created_at, parameters = service.training.plan_training(collection, **body.model_dump())
        queued.append(service.jobs.submit("train", collection, created_at, parameters))
        return queued[0]

    return _accepted(await answer_body(request, service.writes, asked, Train, queue), queued[0])


@router.post(
    "/collections/{collection}/upgrade",
    **documented(
        "Make codes of older binarizers again with the newest, as a job",
        body=Upgrade, result=ref("Job"), writes=True, status=202, errors=(409,),
    ),
)  # fmt: skip
async def upgrade(request: Request, collection: str) -> Response:
    """Queue the work; searches go on and find as before. What is done when it is cancelled stays done."""
    service = services(request)
    asked = query_string(request, ())
    queued: list[Job] = []

    def queue(_: Upgrade) -> Job:
        queued.append(service.jobs.submit("upgrade", collection, service.training.plan_upgrade(collection), {}))
        return queued[0]

    return _accepted(await answer_body(request, service.writes, asked, Upgrade, queue), queued[0])


def _accepted(response: Response, job: Job) -> Response:
    response.status_code = 202
    response.headers["Location"] = f"/jobs/{job.id}"
    return response


@router.put(
    "/collections/{collection}/binarizer",
    **documented(
        "Use a binarizer that was trained elsewhere",
        body="application/octet-stream", query=BINARIZER, result=OBJECT, writes=True, errors=(409,),
    ),
)  # fmt: skip
async def put_binarizer(request: Request, collection: str) -> Response:
    """Read the bytes of a `binarizer.safetensors`; new codes are made with it, old ones stay until an upgrade.

    One that finds less than the present one on sampled queries is refused (409, with figures) unless `force=true`.
    `space` names the vector space that it was trained in; another one than the collection's is refused.
    """
    service = services(request)
    asked = query_string(request, BINARIZER)
    space, force = request.query_params.get("space"), request.query_params.get("force") == "true"

    def put(data: bytes) -> dict[str, Any]:
        return service.training.candidates.replace(collection, data, space=space, force=force)

    return await answer_bytes(request, service.bulk, asked, put)


@router.get("/jobs", **documented("List jobs, the newest first", result=fields(jobs=list_of(ref("Job")))))
async def list_jobs(request: Request) -> Response:
    """Answer with all jobs that wait or run, and the last ones that are finished."""
    query_string(request, ())
    return envelope(request, {"jobs": services(request).jobs.all()})


@router.get("/jobs/{job}", **documented("Describe a job", result=ref("Job")))
async def get_job(request: Request, job: str) -> Response:
    """Answer with state, progress, figures, and the error if it failed."""
    query_string(request, ())
    return envelope(request, services(request).jobs.get(job))


@router.delete("/jobs/{job}", **documented("Cancel a job", result=ref("Job"), writes=True))
async def cancel_job(request: Request, job: str) -> Response:
    """End a job and leave everything as it was before it; codes that an upgrade has made stay.

    One that runs ends a moment after this is answered; one that is finished stays as it is.
    """
    service = services(request)
    asked = query_string(request, ())
    return await answer(request, service.writes, asked, lambda: service.jobs.cancel(job))
