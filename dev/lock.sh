#!/bin/sh
# Pin every package with its hashes: run after changing pyproject.toml, and commit requirements/.
# Usage: dev/lock.sh [--upgrade]
set -eu
cd "$(dirname "$0")/.."
UV=${UV:-.venv/bin/uv}
compile() {
    target=$1
    shift
    "$UV" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links --output-file "requirements/$target.txt" "$@"
}
compile runtime "$@" pyproject.toml
compile cluster "$@" --constraints requirements/runtime.txt --extra cluster pyproject.toml
compile check "$@" --constraints requirements/runtime.txt --group check
compile test "$@" --constraints requirements/cluster.txt --group test --group cluster-dev
compile build "$@" --group build
