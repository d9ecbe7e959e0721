#!/usr/bin/env bash
# Builds the container image without a Docker engine and checks it by using it: buildah builds and runs, documents go
# in and searches come back over HTTP, restarts lose nothing. Not collected by pytest; needs root and some minutes.
#
#   tests/check_image.sh
#
#   BASE_IMAGE    base for the Dockerfile (python:3.12-slim)
#   BUILD_FLAGS   further options of "buildah build": --volume with pip's configuration, --build-arg TORCH_INDEX_URL=...
#   SKIP_BUILD    not empty: check the image that the last run left (KEEP_IMAGE=1)
#   KEEP_IMAGE    not empty: leave the image in buildah's store
#   PORT          port on 127.0.0.1 to use (16333)
#
# Docker would add a private network, cgroup limits and the health check's timer; "--isolation chroot" has none of
# them. The second half therefore mounts the image's root read-only by hand, in namespaces without any network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

image=localhost/bitfold-check
port=${PORT:-16333}
key=check-image-key
work=$(mktemp -d)
container=""
server_job=""

say() { printf '\n== %s\n' "$*"; }
fail() { echo "FAILED: $*" >&2; [ ! -s "$work/log" ] || tail -n 40 "$work/log" >&2; exit 1; }

cleanup() {
    stop_server KILL || true
    if mountpoint -q "$work/root"; then umount -R "$work/root" || true; fi
    if [ -n "$container" ]; then buildah rm "$container" > /dev/null || true; fi
    if [ -z "${KEEP_IMAGE:-}" ]; then buildah rmi "$image" > /dev/null 2>&1 || true; fi
    mountpoint -q "$work/root" || rm -rf --one-file-system "$work"
}
trap cleanup EXIT

inspect() { buildah inspect --type image --format "$1" "$image"; }

# --- the server in the container ---------------------------------------------------------------------------------

start_server() {  # start_server RUNNER...: the runner gets a shell command that becomes the server
    rm -f "$work/data/server.pid"
    "$@" sh -c 'echo $$ > /data/server.pid; exec /opt/bitfold/bin/bitfold serve' >> "$work/log" 2>&1 &
    server_job=$!
}

new_container() {
    container=$(buildah from "$image")
    buildah config --volume /data- "$container"  # buildah's own volume would hide the folder mounted there below
}

server_pid() { cat "$work/data/server.pid"; }

stop_server() {  # stop_server SIGNAL: waits until the process is gone
    [ -n "$server_job" ] || return 0
    if [ -s "$work/data/server.pid" ]; then kill -s "$1" "$(server_pid)" || true; else kill "$server_job" || true; fi
    wait "$server_job" || server_status=$?
    server_job=""
}

drain_server() {  # SIGTERM; a server that ends by itself and one that ends by the signal, after draining, are both right
    server_status=0
    stop_server TERM
    if [ "$server_status" != 0 ] && [ "$server_status" != 143 ] && ! tail -n 3 "$work/log" | grep -q 'exited on terminated'; then
        fail "exit status $server_status after SIGTERM"
    fi
}

in_container() {
    buildah run --isolation chroot --volume "$work/data:/data" --env BITFOLD_API_KEY="$key" \
        --env BITFOLD_PORT="$port" --env BITFOLD_HOST=127.0.0.1 "$container" -- "$@"
}

# --- the client: plain Python on this side of the wall -----------------------------------------------------------

client() {  # client STEP
    python3 - "$port" "$key" "$1" <<'PY'
import json, sys, time, urllib.error, urllib.request

port, key, step = sys.argv[1:]


def call(method, path, body=None, send_key=True, kind="application/json"):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, method=method)
    request.add_header("content-type", kind)
    if send_key:
        request.add_header("api-key", key)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def expect(found, wanted, what):
    if found != wanted:
        sys.exit(f"{what}: {found!r} instead of {wanted!r}")


def search(text):
    status, body = call("POST", "/collections/image/search", json.dumps({"query": text, "limit": 3}).encode())
    expect(status, 200, f"search {text!r} {body[:300]!r}")
    return [point["id"] for point in json.loads(body)["result"]["points"]]


FACTS = [
    "The heart pumps blood through the body.",
    "Volcanoes form where molten rock reaches the surface.",
    "Bees carry pollen from flower to flower.",
    "A sonnet has fourteen lines.",
    "Glaciers carve valleys as they move.",
    "The treaty ended the war between both kingdoms.",
]
FILLER = [f"Entry {i} of the warehouse list: shelf {i % 17}, box {i % 29}." for i in range(1000, 1300)]

if step == "wait":
    begin = time.monotonic()
    while time.monotonic() - begin < 120:
        try:
            if call("GET", "/readyz", send_key=False)[0] == 200:
                print(f"ready after {time.monotonic() - begin:.1f} s")
                sys.exit(0)
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit("not ready after 120 s")
if step == "load":
    expect(call("GET", "/collections", send_key=False)[0], 401, "a call without the key")
    status, body = call("PUT", "/collections/image", json.dumps({"encoder": "default"}).encode())
    expect(status, 200, f"create {body[:300]!r}")
    lines = [json.dumps({"id": i, "text": text, "payload": {"n": i}}) for i, text in enumerate(FACTS + FILLER)]
    body = "\n".join(lines).encode()
    status, answer = call("POST", "/collections/image/points/bulk", body, kind="application/x-ndjson")
    expect(status, 200, f"bulk {answer[:300]!r}")
    expect(json.loads(answer)["result"]["accepted"], len(lines), "accepted lines")
    print(f"{len(lines)} documents loaded")
if step in {"load", "search"}:
    expect(search("Which insects help plants reproduce?")[0], 2, "first hit for insects")
    expect(search("How does ice shape the landscape?")[0], 4, "first hit for ice")
    expect(search("Which organ moves blood?")[0], 0, "first hit for the organ")
    status, body = call("POST", "/collections/image/points/count", b"{}")
    expect(json.loads(body)["result"]["count"], len(FACTS) + len(FILLER), "count")
    print("searches and count are right")
PY
}

# --- build -------------------------------------------------------------------------------------------------------

mkdir -p "$work/data" "$work/root"
: > "$work/log"
if [ -z "${SKIP_BUILD:-}" ]; then
    say "build"
    # shellcheck disable=SC2086  # BUILD_FLAGS is a list of options
    buildah build --isolation chroot --format docker --layers=false --tag "$image" \
        --build-arg BASE_IMAGE="${BASE_IMAGE:-python:3.12-slim}" ${BUILD_FLAGS:-} .
fi

say "what the image says about itself"
user=$(inspect '{{.Docker.Config.User}}')
[ "$user" = 10001:10001 ] || fail "user is '$user'"
[ "$(inspect '{{.Docker.Config.StopSignal}}')" = SIGTERM ] || fail "stop signal"
[ "$(inspect '{{.Docker.Config.Healthcheck.Interval}}')" = 10s ] || fail "no health check"
inspect '{{.Docker.Config.Volumes}}' | grep -q /data || fail "no volume"
[ "$(inspect '{{.Docker.Config.Entrypoint}} {{.Docker.Config.Cmd}}')" = "[/opt/bitfold/bin/bitfold] [serve]" ] || fail "entrypoint"
env_of_image=$(inspect '{{range .Docker.Config.Env}}{{println .}}{{end}}')
if grep -E -i '://|^pip_|api_key' <<< "$env_of_image"; then fail "build-time settings are in the image"; fi

new_container
chown 10001:10001 "$work/data"
chmod 755 "$work"

say "what is not in the image"
in_container sh -c '
    for tool in gcc cc g++ make ld pip pip3 git; do
        [ ! -x "/opt/bitfold/bin/$tool" ] || { echo "$tool is in the environment"; exit 1; }
        case "$tool" in pip*) continue ;; esac  # a base image may bring its own pip, outside of our environment
        if command -v "$tool"; then echo "build tool in the image"; exit 1; fi
    done
    [ "$(id -u)" = 10001 ] || { echo "runs as $(id -u)"; exit 1; }
    for place in / /opt/bitfold /opt/bitfold/lib /etc; do
        if [ -w "$place" ]; then echo "$place can be written"; exit 1; fi
    done
    [ ! -e /src ] && [ ! -e /opt/tools ] || { echo "sources or tools left behind"; exit 1; }
' || fail "contents"
echo "no compiler, no pip of its own, no sources; user 10001; nothing writable but data and /tmp"
buildah images --format '{{.Name}}: {{.Size}}' "$image"

say "a public address without a key is refused"
if timeout 120 buildah run --isolation chroot "$container" -- /opt/bitfold/bin/bitfold serve > "$work/refused" 2>&1; then
    fail "started on 0.0.0.0 without a key"
fi
grep -v -E '^(subprocess exited|Error: exit)' "$work/refused"

# --- first half: buildah run ---------------------------------------------------------------------------------------

say "load and search"
start_server in_container
client wait || fail "start"
client load || fail "load"
grep -E '^Vm(RSS|HWM)' "/proc/$(server_pid)/status"
health=$(in_container /opt/bitfold/bin/python -c "import os, urllib.request as r; print(r.urlopen('http://127.0.0.1:' + os.environ['BITFOLD_PORT'] + '/healthz', timeout=4).status)")
[ "$health" = 200 ] || fail "the health check's command says '$health'"

say "SIGTERM, then the same data in a new container"
drain_server
buildah rm "$container" > /dev/null
new_container
start_server in_container
client wait || fail "second start"
client search || fail "search after the restart"

say "SIGKILL, then start again"
stop_server KILL
start_server in_container
client wait || fail "start after SIGKILL"
client search || fail "search after SIGKILL"
drain_server
in_container /opt/bitfold/bin/bitfold verify /data || fail "verify"

# --- second half: read-only root, no network -----------------------------------------------------------------------

say "read-only root, only /data and /tmp writable, no network, no capabilities"
lower=$(buildah mount "$container")
cat > "$work/isolated.sh" <<'SH'
set -eu
root=$1 data=$2 lower=$3 environment=$4
shift 4
mount --make-rprivate /
mount --bind "$lower" "$root"
mount -o remount,bind,ro "$root"
mount -t tmpfs -o size=256m,mode=1777 tmpfs "$root/tmp"
mount --bind "$data" "$root/data"
mount -t proc proc "$root/proc"
mount -t tmpfs -o size=1m,mode=755 tmpfs "$root/dev"
for device in null zero random urandom; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm"
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$root/dev/shm"
ip link set lo up
if touch "$root/probe" 2> /dev/null; then echo "the root file system is writable"; exit 1; fi
exec setpriv --no-new-privs --bounding-set=-all,+setuid,+setgid,+sys_chroot \
    chroot --userspec=10001:10001 --groups=10001 "$root" env -i $(cat "$environment") "$@"
SH
{ tr '\n' ' ' <<< "$env_of_image"; echo "BITFOLD_API_KEY=$key BITFOLD_PORT=$port"; } > "$work/environment"
isolated() { unshare --mount --net sh "$work/isolated.sh" "$work/root" "$work/data" "$lower" "$work/environment" "$@"; }

start_server isolated
for _ in $(seq 100); do [ -s "$work/data/server.pid" ] && break; sleep 0.1; done
[ -s "$work/data/server.pid" ] || fail "did not start"
inside() { nsenter --target "$(server_pid)" --net bash -c "$(declare -f client); port=$port key=$key; client $1"; }
inside wait || fail "start without network"
[ "$(grep -c : "/proc/$(server_pid)/net/dev")" = 1 ] || fail "there is a network"
grep -E '^(Uid|CapEff|NoNewPrivs)' "/proc/$(server_pid)/status"
grep -q '^CapEff:[[:space:]]*0000000000000000$' "/proc/$(server_pid)/status" || fail "capabilities left"
inside search || fail "search without network"
drain_server

say "all checks passed"
