#!/usr/bin/env bash
# Measures the degradations on one core's worth of threads. From the repository's root:
#   bash experiments/202611_degradation/run.sh
set -euo pipefail
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
here=experiments/202611_degradation
python $here/benchmark.py $here/results.json 96 192 512
