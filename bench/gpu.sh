#!/usr/bin/env bash
# Measurements on a machine with NVIDIA GPUs: bench/gpu.sh [PART ...] (bench/accelerator/README.md; --help).
exec "$(dirname "$0")/accelerator/run.sh" gpu "$@"
