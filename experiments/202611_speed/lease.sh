#!/usr/bin/env bash
# Checks and times everything on this machine's accelerator, as far as the time goes:
#   bash experiments/202611_speed/lease.sh RESULTS [SECONDS] [STAGE ...]
# RESULTS gets STAGE.jsonl, a line for each job as it ends, and log.txt. Run it again
# with the same folder to go on: what is there is not done again, what failed is. So
# the folder and build/jax_cache must persist between the runs: not where a machine
# empties its folder for output first. Copy the results there at the end.
# LEASE_SHORT=1 runs every job at sizes for a CPU.
set -u
cd "$(dirname "$0")/../.." || exit
results=$(realpath -m "${1:?folder for the results}")
end=$((SECONDS + ${2:-540}))
[ $# -gt 2 ] && stages=("${@:3}") ||
  stages=(device correct kernels forward image diffusers train)
mkdir -p "$results"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/build/jax_cache}
# Seconds that a stage may take: what fails to end must not cost the others.
declare -A limits=([device]=60 [correct]=150 [kernels]=180 [forward]=240 [image]=240
  [diffusers]=120 [train]=180)
failed=0
for stage in "${stages[@]}"; do
  left=$((end - SECONDS - 5))
  limit=${limits[$stage]:?unknown stage}
  ((limit < left)) || limit=$left
  ((limit > 10)) || { echo "$stage: no time left" && failed=1 && continue; }
  start=$SECONDS
  timeout -k 5 "$limit" "${PYTHON:-python3}" experiments/202611_speed/lease.py \
    "$stage" "$results/$stage.jsonl" >>"$results/log.txt" 2>&1
  code=$?
  echo "$stage: exit $code after $((SECONDS - start)) s"
  ((code == 0)) || failed=1
done
exit $failed
