#!/usr/bin/env bash
# Checks and times everything on this machine's accelerator, as far as the time goes:
#   bash experiments/202611_speed/lease.sh RESULTS [SECONDS] [STAGE ...]
# RESULTS gets STAGE.jsonl, a line for each job as it ends, and log.txt. Run it again
# with the same folder to go on: stages that have not begun come first, and finished
# jobs are skipped. If OUT is set, RESULTS is packed into OUT/results.tgz after each
# stage, for machines that keep nothing else.
# LEASE_SHORT=1 runs every job at sizes for a CPU.
set -u
results=$(realpath -m "${1:?folder for the results}")
cd "$(dirname "$0")/../.." || exit
end=$((SECONDS + ${2:-540}))
# What matters most comes first. `kernels` checks what it times.
[ $# -gt 2 ] && stages=("${@:3}") ||
  stages=(device kernels forward image tune baselines correct diffusers gradient)
mkdir -p "$results"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/build/jax_cache}
# Seconds that a stage may take: what fails to end must not cost the others.
declare -A limits=([device]=60 [kernels]=150 [forward]=150 [image]=150 [tune]=150 [baselines]=90
  [correct]=120 [diffusers]=90 [gradient]=90)
declare -A codes=()

run_stage() {
  local stage=$1 left=$((end - SECONDS - 5)) start=$SECONDS
  local limit=${limits[$stage]:?unknown stage}
  # A CPU may be busy with other things.
  [ -z "${LEASE_SHORT-}" ] || limit=$((10 * limit))
  ((limit < left)) || limit=$left
  ((limit > 10)) || { echo "$stage: no time left" && codes[$stage]=1 && return; }
  timeout -k 5 "$limit" "${PYTHON:-python3}" experiments/202611_speed/lease.py \
    "$stage" "$results/$stage.jsonl" >>"$results/log.txt" 2>&1
  codes[$stage]=$?
  echo "$stage: exit ${codes[$stage]} after $((SECONDS - start)) s"
  # One file: some machines return only a few.
  [ -z "${OUT-}" ] || tar czf "$OUT/results.tgz" -C "$results" . ||
    echo "$OUT: results not copied"
}

begun=()
for stage in "${stages[@]}"; do
  if [ -e "$results/$stage.jsonl" ]; then begun+=("$stage"); else run_stage "$stage"; fi
done
for stage in "${begun[@]}"; do run_stage "$stage"; done
# What time is left goes to what did not end well.
for stage in "${stages[@]}"; do
  ((codes[$stage] == 0 || end - SECONDS < 20)) || run_stage "$stage"
done
for code in "${codes[@]}"; do ((code == 0)) || exit 1; done
