#!/bin/sh
# Pin every package with its hashes: run after changing pyproject.toml, and commit requirements/.
# Usage: dev/lock.sh [--upgrade]
set -eu
cd "$(dirname "$0")/.."
UV=${UV:-.venv/bin/uv}
PY=${PY:-.venv/bin/python}
compile() {
    target=$1
    shift
    "$UV" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links --output-file "requirements/$target.txt" "$@"
}
# Standard input holds what the extra `cluster` adds: uv would lock everything else with it again.
extra() {
    "$PY" -c 'import sys, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print(*project["optional-dependencies"][sys.argv[1]], sep="\n")' "$1"
}
RUNTIME="--constraints requirements/runtime.txt"
CLUSTER="$RUNTIME --constraints requirements/cluster.txt"
compile runtime "$@" pyproject.toml
extra cluster | compile cluster "$@" $RUNTIME -
compile check "$@" $CLUSTER --group check
compile test "$@" $CLUSTER --group test --group cluster-dev --group images-dev
compile build "$@" --group build
# vLLM asks for a PyTorch that the package index does not hold; that which it holds computes on CPUs as well, and of its
# gigabytes for GPUs none is read (dev/vllm).
"$UV" pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-header \
    --no-annotate --no-emit-index-url --no-emit-find-links --override dev/vllm/overrides.txt \
    $(sed 's/^/--no-emit-package /' dev/vllm/left-out.txt) --output-file requirements/vllm.txt "$@" --group vllm-dev
# The images' own locks follow the two above.
compile operator "$@" $CLUSTER --group operator-image
compile pipelines "$@" $RUNTIME --group pipelines-image
