#!/usr/bin/env bash
# Trains and scores every variant on each seed, on one core. From the repository's root:
#   PYTHONPATH=. bash experiments/202611_attention/run.sh PHOTOS BENCHMARKS SEED ...
# PHOTOS holds train/ and val/; BENCHMARKS holds Set5 and RealSR. Started again it goes on
# where it stopped; what is finished is left as it is.
set -euo pipefail
export JAX_PLATFORMS=cpu OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
photos=$1
benchmarks=$2
shift 2
here=experiments/202611_attention
runs=runs/attention
# XLA has as many threads as the process has cores.
python="taskset -c 1 python"

for seed in "$@"; do
  for variant in linear softmax none; do
    $python $here/train.py "$variant" "$seed" "$photos/train" $runs
    $python $here/measure.py "$variant" "$seed" "$photos" "$benchmarks" $runs
  done
done
$python $here/costs.py $runs/costs.json
$python $here/collect.py $runs "$benchmarks"
$python $here/plot.py
