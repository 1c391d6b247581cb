# shellcheck shell=bash
# What CANN and torch_npu are told on every machine (docs/ascend.md, Environment). What is set already stays as it is.
if [ -z "${ASCEND_HOME_PATH:-}" ]; then
    for cann in /usr/local/Ascend/cann /usr/local/Ascend/ascend-toolkit; do # the second one before CANN 8.5
        if [ -f "$cann/set_env.sh" ]; then
            set +u # it reads variables that may not be there
            # shellcheck source=/dev/null
            . "$cann/set_env.sh"
            set -u
            break
        fi
    done
fi
export TASK_QUEUE_ENABLE=${TASK_QUEUE_ENABLE:-2} # a second thread launches what the first has prepared
export CPU_AFFINITY_CONF=${CPU_AFFINITY_CONF:-2} # the threads of each NPU on cores near it
if [ -z "${PYTORCH_ALLOC_CONF:-}" ]; then # its newer name, and torch_npu takes only one of them
    export PYTORCH_NPU_ALLOC_CONF=${PYTORCH_NPU_ALLOC_CONF:-expandable_segments:True} # less is lost between tensors
fi
