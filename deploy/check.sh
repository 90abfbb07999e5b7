#!/usr/bin/env bash
# The steps of deploy/Dockerfile in a clean virtual environment: install, serve as a user who may
# write nothing, pass the health check, answer, and leave at SIGTERM. Needs a package index.
set -euo pipefail
unset PYTHONPATH
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
pid=
trap 'kill -9 $pid 2>/dev/null || true; rm -rf "$scratch"' EXIT

python3 -m venv "$scratch/panodetr"
bin=$scratch/panodetr/bin
"$bin/pip" install --quiet --constraint requirements/constraints.txt torch
"$bin/pip" install --quiet --constraint requirements/constraints.txt ".[serve]"
chmod -R a+rX "$scratch"

as=()
[ "$(id -u)" -ne 0 ] || as=(setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs)
again='import subprocess as s, sys; s.run([sys.executable, "-c", ""], check=True)'
if ! "${as[@]}" "$bin/python" -c "$again" 2>"$scratch/why"; then
    echo "another user may not run $(readlink -f "$bin/python"): the service runs as $(id -un)"
    as=()
fi
cp src/panodetr/assets/samples/fluorescence.png "$scratch/image.png"
cd /
HOME=/nonexistent PYTHONDONTWRITEBYTECODE=1 "${as[@]}" \
    "$bin/panodetr" serve --host 127.0.0.1 --port 8765 --log-json >"$scratch/log" 2>&1 &
pid=$!

check='import urllib.request as r; r.urlopen("http://127.0.0.1:8765/readyz", timeout=4)'
for _ in $(seq 60); do
    "$bin/python" -c "$check" 2>"$scratch/why" && break
    kill -0 "$pid" || { cat "$scratch/log"; exit 1; }
    sleep 1
done
curl --silent --fail --data-binary @"$scratch/image.png" http://127.0.0.1:8765/v1/segment |
    grep -q '"label":"nucleus"'
kill -TERM "$pid"
wait "$pid"
cat "$scratch/log"
echo "the service was installed, answered and left"
