#!/usr/bin/env bash
# Several machines (C4D_NODES, 2 of them), one rank an NPU. On each of them, with its number from 0 and the address of the
# first one, all with the same words of a c4d command:
#   C4D_NODES=2 launch/ascend/several_nodes.sh 0 10.0.0.1 generate --ulysses 8 --ring 2 --model … --out results
# HCCL_SOCKET_IFNAME names the interface between them, C4D_PORT a free port of the first one.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/start.sh
. "$here/start.sh"
# shellcheck source=launch/ascend/environment.sh
. "$here/ascend/environment.sh"
export HCCL_CONNECT_TIMEOUT=${HCCL_CONNECT_TIMEOUT:-600} HCCL_EXEC_TIMEOUT=${HCCL_EXEC_TIMEOUT:-1800} # seconds
if [ $# -lt 3 ]; then
    echo "usage: C4D_NODES=N $0 NUMBER FIRST_ADDRESS COMMAND [OPTION …]" >&2
    exit 2
fi
number=$1 first=$2 command=$3
shift 3

start torchrun --nnodes="${C4D_NODES:-2}" --nproc-per-node="${C4D_DEVICES:-8}" --node-rank="$number" \
    --master-addr="$first" --master-port="${C4D_PORT:-29500}" -m c4d "$command" --backend ascend "$@"
