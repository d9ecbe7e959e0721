#!/bin/sh
# Installs the torch version that requirements.lock pins, and a CUDA build only when one was asked for.
#
#   scripts/install_torch.sh PIP [PIP ARGUMENT...]      e.g. scripts/install_torch.sh .venv/bin/python -m pip
#
# TORCH_INDEX_URL    where torch comes from: PyTorch's CPU index, one of its CUDA indexes, or a mirror of either.
# TORCH_ALLOW_CUDA   not empty: take whatever pip's own configuration finds, CUDA libraries included.
#
# With neither: on Linux only a CPU build (2.x.y+cpu) that pip's own configuration offers is taken, because the build
# without a label brings gigabytes of CUDA libraries there. On other systems the plain build has no CUDA.
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
if "$@" install --no-deps "$pin+cpu"; then
    exit 0
fi
cat >&2 <<END

bitfold: pip found no CPU build of $pin, and on Linux the other builds bring gigabytes of CUDA libraries.
Run the same command again with one of these:

  TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu     the CPU build from PyTorch's own index (about 0.2 GB)
  TORCH_INDEX_URL=https://download.pytorch.org/whl/cu130   a CUDA build, if you want one
  TORCH_ALLOW_CUDA=1                                       whatever pip finds by itself

for example:  make serve TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
END
exit 1
