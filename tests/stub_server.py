"""Enough of a server for the command line, scripted."""

import contextlib
import socket
import threading
import time

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

STAGES = {
    "mode": "exact",
    "encoder": "minilm",
    "layers": 6,
    "dimensions": 384,
    "cached": False,
    "milliseconds": {"encode": 1.5},
}


class Stub:
    """Enough of a server for the command line; `refuse` holds answers to give before doing anything."""

    def __init__(self):
        self.collections = {}
        self.created = []
        self.made_at = 1.0
        self.requests = []
        self.searches = []
        self.keys = set()
        self.refuse = []
        self.app = Starlette(
            routes=[
                Route("/collections", self.list),
                Route("/collections/{name}", self.one, methods=["GET", "PUT", "DELETE"]),
                Route("/collections/{name}/exists", self.exists),
                Route("/collections/{name}/points/bulk", self.bulk, methods=["POST"]),
                Route("/collections/{name}/search", self.search, methods=["POST"]),
            ]
        )

    @staticmethod
    def ok(result):
        return JSONResponse({"result": result, "status": "ok", "time": 0.0})

    @staticmethod
    def wrong(status, type_, message, hint=None, headers=None):
        body = {"status": {"error": message}, "time": 0.0, "type": type_, "param": None, "hint": hint}
        return JSONResponse(body, status, headers)

    async def list(self, request):
        self.keys.add(request.headers.get("api-key"))
        if self.refuse:
            return self.refuse.pop(0)
        return self.ok({"collections": [{"name": name} for name in self.collections]})

    async def exists(self, request):
        return self.ok({"exists": request.path_params["name"] in self.collections})

    async def one(self, request):
        name = request.path_params["name"]
        if request.method == "PUT":
            body = await request.json()
            self.created.append((name, body))
            self.collections[name] = {}
            return self.ok(True)
        if request.method == "DELETE":
            return self.ok(self.collections.pop(name, None) is not None)
        if name not in self.collections:
            return self.wrong(404, "unknown_collection", f"there is no collection {name}")
        count = len(self.collections[name])
        return self.ok(
            {
                "points_count": count,
                "created_at": self.made_at,
                "indexed_vectors_count": 0,
                "encoder": "minilm",
                "codes": {"bytes_per_point": 0.0},
                "config": {"params": {"vectors": {"size": 384, "distance": "Cosine"}}},
            }
        )

    async def bulk(self, request):
        body = await request.body()
        if self.refuse:
            return self.refuse.pop(0)
        points = self.collections[request.path_params["name"]]
        counts = {"accepted": 0, "rejected": 0, "unchanged": 0, "truncated": 0, "errors": [], "truncated_lines": []}
        lines = body.split(b"\n")[:-1]
        self.requests.append(lines)
        for number, line in enumerate(lines, 1):
            value = orjson.loads(line)
            if value.get("text") == "bad":
                counts["rejected"] += 1
                counts["errors"].append(
                    {"line": number, "id": value["id"], "type": "invalid_text", "message": "too bad"}
                )
                continue
            if value.get("text") == "long":
                counts["truncated"] += 1
                counts["truncated_lines"].append(number)
            counts["accepted"] += 1
            counts["unchanged"] += points.get(value["id"]) == value
            points[value["id"]] = value
        return self.ok(counts)

    async def search(self, request):
        self.searches.append(await request.json())
        if request.path_params["name"] not in self.collections:
            return self.wrong(404, "unknown_collection", "there is no such collection", hint="create it")
        point = {"id": 5, "score": 0.5, "text": "a\nlong  text", "payload": {"topic": "x", "none": None}}
        return self.ok({"points": [point], "stages": STAGES})


@contextlib.contextmanager
def running(app):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
