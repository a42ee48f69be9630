#!/bin/sh
# Make tests/golden/convert again with llama.cpp's own converter. Usage: dev/golden/make.sh VENV
# Works in build/golden: torch for CPUs and transformers in an environment of their own (about 1 GB), and the
# llama.cpp sources that llama-cpp-python's source package brings along.
set -eu
cd "$(dirname "$0")/../.."
venv=$1
work=build/golden
release=${LLAMA_CPP_PYTHON:-0.3.36}
# Index of torch's CPU builds; without it pip's own index is asked, whose builds may bring libraries for GPUs.
torch_index=${TORCH_INDEX:-}

mkdir -p "$work"
if [ ! -x "$work/venv/bin/python" ]; then
    "$venv/bin/python" -m venv --without-pip "$work/venv"
fi
install() {
    "$venv/bin/python" -m pip --python "$work/venv/bin/python" install --quiet --disable-pip-version-check "$@"
}
echo "==> Installing torch, transformers and sentencepiece into $work/venv"
install ${torch_index:+--index-url "$torch_index"} torch
install transformers sentencepiece safetensors numpy pyyaml protobuf tqdm requests

source=$work/llama_cpp_python-$release/vendor/llama.cpp
if [ ! -f "$source/convert_hf_to_gguf.py" ]; then
    echo "==> Fetching the sources of llama.cpp"
    "$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" \
        --no-binary llama-cpp-python "llama-cpp-python==$release"
    tar -xzf "$work/llama_cpp_python-$release.tar.gz" -C "$work"
fi
"$work/venv/bin/python" dev/golden/make_convert_golden.py "$source"
