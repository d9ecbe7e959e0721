"""What tests of the OpenAI endpoints share: OpenAI's own client over a live server."""

from __future__ import annotations

import time

import numpy as np
import openai


def client(server, **options):
    return openai.OpenAI(**({"base_url": f"{server.url}/v1", "api_key": "none", "max_retries": 0} | options))


def loaded(server, *names):
    """Wait until encoders are loaded: a request begins it and is told to come back."""
    for name in names:
        while server.http.post("/v1/embeddings", json={"model": name, "input": "red"}).status_code == 503:
            time.sleep(0.01)
    return server


def vectors(response):
    return np.array([item.embedding for item in response.data], np.float32)
