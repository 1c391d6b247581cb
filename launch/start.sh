# shellcheck shell=bash
# Read by the job scripts. `start WORD…` becomes that program; with C4D_DRY_RUN=1 it prints it instead, as one line that a
# shell reads back.
start() {
    if [ "${C4D_DRY_RUN:-0}" = 1 ]; then
        printf '%q ' "$@"
        printf '\n'
    else
        exec "$@"
    fi
}
