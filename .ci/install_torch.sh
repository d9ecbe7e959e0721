#!/bin/sh
# Installs the torch version that requirements.lock pins, and a CUDA build only when one was asked for.
#
#   .ci/install_torch.sh PIP [PIP ARGUMENT...]      e.g. .ci/install_torch.sh .venv/bin/python -m pip
#
# TORCH_INDEX_URL    where torch comes from: PyTorch's CPU index, one of its CUDA indexes, or a mirror of either.
# TORCH_ALLOW_CUDA   not empty: take whatever pip's own configuration finds, CUDA libraries included.
#
# With neither: on Linux a CPU build (2.x.y+cpu), from pip's own configuration if that offers one, else from PyTorch's
# own index, because the build without a label brings gigabytes of CUDA libraries there. Elsewhere the plain build.
set -eu

lock="$(dirname "$0")/../requirements.lock"
pin=$(sed -n 's/^\(torch==[0-9][^ ;#]*\).*$/\1/p' "$lock")
if [ -z "$pin" ]; then
    echo "bitfold: $lock pins no torch version" >&2
    exit 1
fi

if "$@" list --format=freeze 2>/dev/null | grep -q -E "^$pin(\+.*)?\$"; then
    exit 0  # this version is there already, in whichever build: keep it
fi
if [ -n "${TORCH_INDEX_URL:-}" ]; then
    exec "$@" install --index-url "$TORCH_INDEX_URL" "$pin"
fi
if [ -n "${TORCH_ALLOW_CUDA:-}" ] || [ "$(uname -s)" != Linux ]; then
    exec "$@" install "$pin"
fi
# --no-deps: a CPU build needs nothing beyond requirements.lock, and "pip check" proves it afterwards.
if "$@" install --no-deps --quiet "$pin+cpu" 2>/dev/null; then
    exit 0
fi
echo "bitfold: taking the CPU build of $pin from PyTorch's own index (TORCH_INDEX_URL names another source)" >&2
exec "$@" install --no-deps --index-url https://download.pytorch.org/whl/cpu "$pin+cpu"
