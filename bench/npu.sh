#!/usr/bin/env bash
# Measurements on a machine with Ascend NPUs: bench/npu.sh [PART ...] (bench/accelerator/README.md; --help).
set -euo pipefail

# Without CANN's libraries torch_npu breaks torch itself. (Some containers have them without this variable.)
if [ -z "${ASCEND_HOME_PATH:-}" ] && ! "${PYTHON:-python3}" -c "import torch" 2>/dev/null; then
    echo "bench/npu.sh: torch cannot be imported, and CANN's environment is not set: source" \
        "/usr/local/Ascend/cann/set_env.sh (before CANN 8.5: /usr/local/Ascend/ascend-toolkit/set_env.sh), and see" \
        "c4d doctor (docs/ascend.md)" >&2
    exit 2
fi

# What is set already stays as it is; the page says what it was.
export TASK_QUEUE_ENABLE=${TASK_QUEUE_ENABLE:-2} # a second thread launches what the first has prepared
export CPU_AFFINITY_CONF=${CPU_AFFINITY_CONF:-2} # the threads of each NPU on cores near it
export HCCL_OP_EXPANSION_MODE=${HCCL_OP_EXPANSION_MODE:-AIV} # collectives within a host run on the vector cores
if [ -z "${PYTORCH_ALLOC_CONF:-}" ]; then # its newer name, and torch_npu takes only one of them
    export PYTORCH_NPU_ALLOC_CONF=${PYTORCH_NPU_ALLOC_CONF:-expandable_segments:True} # less is lost between tensors
fi
exec "$(dirname "$0")/accelerator/run.sh" npu "$@"
