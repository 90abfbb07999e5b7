#!/usr/bin/env bash
# The steps of deploy/Dockerfile in a clean virtual environment: install, serve, pass the health
# check, answer, and leave at SIGTERM. Needs a package index. Root, on Linux, serves as the image
# does: as user 10001 without any capability, on read-only file systems. Others serve as themselves.
set -euo pipefail
unset PYTHONPATH
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
pid=
trap 'kill -9 $pid 2>/dev/null || true; rm -rf "$scratch"' EXIT

python=$(command -v python3)
jail=()
if [ "$(id -u)" -eq 0 ]; then
    # shellcheck disable=SC2016 # the jail's own shell expands it
    jail=(unshare --mount --propagation private bash -ec '
        findmnt -rn -o TARGET | grep -vE "^/(proc|sys|dev)(/|$)" | while read -r mounted; do
            mount -o remount,bind,ro "$mounted"
        done
        exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs \
            --inh-caps=-all --bounding-set=-all "$@"' jail)
    if "${jail[@]}" touch /tmp/written 2>"$scratch/why"; then
        echo "the file system is not read-only"
        exit 1
    fi
    # What lies in root's home is not for other users.
    "${jail[@]}" "$python" -c "" 2>"$scratch/why" || python=/usr/bin/python3
fi

"$python" -m venv "$scratch/panodetr"
bin=$scratch/panodetr/bin
"$bin/pip" install --quiet --constraint requirements/constraints.txt torch
"$bin/pip" install --quiet --constraint requirements/constraints.txt ".[serve]"
chmod -R a+rX "$scratch"
cp src/panodetr/assets/samples/fluorescence.png "$scratch/image.png"
cd /
export HOME=/nonexistent PYTHONDONTWRITEBYTECODE=1
"${jail[@]}" "$bin/panodetr" serve --host 127.0.0.1 --port 8765 --log-json >"$scratch/log" 2>&1 &
pid=$!

check='import urllib.request as r; r.urlopen("http://127.0.0.1:8765/readyz", timeout=4)'
for _ in $(seq 60); do
    "$bin/python" -c "$check" 2>"$scratch/why" && break
    kill -0 "$pid" || { cat "$scratch/log"; exit 1; }
    sleep 1
done
echo "the service runs as user $(ps -o uid= -p "$pid" | tr -d ' ')"
curl --silent --fail --data-binary @"$scratch/image.png" http://127.0.0.1:8765/v1/segment |
    grep -q '"label":"nucleus"'
kill -TERM "$pid"
wait "$pid"
cat "$scratch/log"
echo "the service was installed, answered and left"
