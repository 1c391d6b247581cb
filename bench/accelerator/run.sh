#!/usr/bin/env bash
# What bench/gpu.sh and bench/npu.sh have in common: run.sh gpu|npu [PART ...] (README.md; --help).
# run.sh gpu|npu wheels [X.Y]: fetch what a machine without an index may lack into .whl/, for its Python X.Y (3.12).
set -euo pipefail
cd "$(dirname "$0")/../.."
script=$1
shift
python=${PYTHON:-python3}

if [ "${1:-}" = wheels ]; then
    rm -rf .whl # two versions of one package stop an installation
    exec "$python" -m pip download -q --no-deps --only-binary=:all: --python-version "${2:-3.12}" --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        -d .whl diffusers==0.42.1 cache-dit==1.5.3
fi

there='from importlib.util import find_spec; raise SystemExit(not all(map(find_spec, ("diffusers", "cache_dit"))))'
path=$PWD${PYTHONPATH:+:$PYTHONPATH}
if compgen -G '.whl/*.whl' >/dev/null && ! "$python" -c "$there"; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" .whl/*.whl
    path=$site:$path
fi
export CACHE_DIT_LOG_LEVEL=${CACHE_DIT_LOG_LEVEL:-ERROR} # it tells of every call
PYTHONUNBUFFERED=1 PYTHONPATH=$path "$python" -m bench.accelerator --script "$script" "$@"
