# The service in one image: no network and no writable root needed at run time, one volume for data.
#   BASE_IMAGE        any image with Python 3.11 to 3.13 as python3; the same one in both stages
#   TORCH_INDEX_URL   where torch comes from, see .ci/install_torch.sh
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS build
ARG TORCH_INDEX_URL=""
ARG TORCH_ALLOW_CUDA=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# pip lives in its own environment and fills the other one from outside: the environment that is shipped has no pip. The
# base image may have one, for its own Python: it comes and goes with BASE_IMAGE.
RUN python3 -m venv /opt/tools && python3 -m venv --without-pip /opt/bitfold

WORKDIR /src
COPY requirements.lock ./
COPY .ci/install_torch.sh .ci/
RUN sh .ci/install_torch.sh /opt/tools/bin/python -m pip --python /opt/bitfold/bin/python
RUN /opt/tools/bin/python -m pip --python /opt/bitfold/bin/python install --no-deps -r requirements.lock

COPY LICENSE pyproject.toml ./
COPY index index
COPY models models
COPY service service
RUN /opt/tools/bin/python -m pip wheel --no-deps --wheel-dir /wheels . \
    && /opt/tools/bin/python -m pip --python /opt/bitfold/bin/python install --no-deps /wheels/*.whl \
    && /opt/tools/bin/python -m pip --python /opt/bitfold/bin/python check
# Three generic names: refuse to ship an image in which another distribution owns one of them too.
WORKDIR /
RUN /opt/bitfold/bin/python -P -c "\
import importlib.metadata as metadata; \
owners = metadata.packages_distributions(); \
bad = {name: owners.get(name) for name in ('index', 'models', 'service') if owners.get(name) != ['bitfold']}; \
raise SystemExit(f'package names owned by others: {bad}' if bad else 0)"
# Headers are for compiling extensions, which nothing does at run time. Bytecode is there already: pip wrote it.
RUN rm -rf /opt/bitfold/lib/python3.*/site-packages/torch/include /opt/bitfold/lib/python3.*/site-packages/pyarrow/include

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="Bitfold" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/bitfold /opt/bitfold
RUN mkdir /data && chown 10001:10001 /data && chmod 700 /data \
    && echo 'bitfold:x:10001:10001::/data:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'bitfold:x:10001:' >> /etc/group
ENV PATH=/opt/bitfold/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HOME=/tmp/huggingface \
    HF_HUB_OFFLINE=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    BITFOLD_DATA_DIR=/data \
    BITFOLD_HOST=0.0.0.0 \
    BITFOLD_PORT=6333
# Outside of any source tree: a folder called "models" in the working directory must not shadow ours.
WORKDIR /data
USER 10001:10001
VOLUME /data
EXPOSE 6333
STOPSIGNAL SIGTERM
# Asks the loopback address, so BITFOLD_HOST must stay 0.0.0.0 or be 127.0.0.1 for it to succeed.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["/opt/bitfold/bin/python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['BITFOLD_PORT'] + '/healthz', timeout=4)"]
ENTRYPOINT ["/opt/bitfold/bin/bitfold"]
CMD ["serve"]
