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
# shellcheck source=launch/ascend/environment.sh
. "$(dirname "$0")/../launch/ascend/environment.sh"
export HCCL_OP_EXPANSION_MODE=${HCCL_OP_EXPANSION_MODE:-AIV} # collectives within a host run on the vector cores
exec "$(dirname "$0")/accelerator/run.sh" npu "$@"
