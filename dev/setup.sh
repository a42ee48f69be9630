#!/bin/sh
# Create a virtual environment with the locked packages and this tree in place.
# Usage: dev/setup.sh FOLDER LOCK...
set -eu
folder=$1
shift
python=${PYTHON:-python3}

fail() {
    echo "setup: $1" >&2
    exit 1
}

command -v "$python" >/dev/null || fail "$python is not here; install Python 3.11 or newer, or name it: make PYTHON=python3.12"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$("$python" --version) is too old; Python 3.11 or newer is needed"

if ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$folder"
    if ! "$python" -m venv "$folder" 2>/dev/null; then
        # Debian splits ensurepip off into python3-venv; its pip can fill an environment from outside.
        rm -rf "$folder"
        "$python" -m venv --without-pip "$folder" || fail "$python cannot make a virtual environment: apt-get install python3-venv"
        "$python" -m pip --python "$folder/bin/python" install --quiet pip ||
            fail "there is no pip for $python: apt-get install python3-venv python3-pip"
    fi
fi
echo "==> Installing the locked packages into $folder"
set -- $(for lock in "$@"; do printf -- '-r %s ' "$lock"; done)
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes "$@"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
