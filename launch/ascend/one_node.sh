#!/usr/bin/env bash
# One machine, one rank an NPU (C4D_DEVICES, 8 of them). With the words of a c4d command:
#   launch/ascend/one_node.sh generate --model … --prompt-file prompts.txt --out results
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/start.sh
. "$here/start.sh"
# shellcheck source=launch/ascend/environment.sh
. "$here/ascend/environment.sh"
export HCCL_OP_EXPANSION_MODE=${HCCL_OP_EXPANSION_MODE:-AIV} # collectives within a host run on the vector cores
command=${1:?"give the words of a c4d command, such as: $0 generate --model …"}
shift

start torchrun --standalone --nproc-per-node="${C4D_DEVICES:-8}" -m c4d "$command" --backend ascend "$@"
