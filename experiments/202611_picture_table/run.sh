#!/usr/bin/env bash
# Makes the table. From the repository's root:
#   bash experiments/202611_picture_table/run.sh BENCHMARKS PHOTOS RIVALS WORK \
#     [--time] [MODEL ...]
# BENCHMARKS holds RealSR, Set5 and Set14, each with HR and LR; PHOTOS holds val/;
# RIVALS holds the ncnn files that README.md names; WORK keeps outputs and values, so
# that a row is computed once. MODEL is NAME=FOLDER[@STEPS[@FIDELITY]]; without one the
# rows are those of the bundled models. The table has the rows of this call alone, so
# the two that need a folder of their own, "nano of release 0.2.0" and "nano, regression
# twin", are named together with all others.
# Needs: pip install ".[judges]" ncnn. --time times each row; on idle cores only.
set -euo pipefail
benchmarks=$1 photos=$2 rivals=$3 work=$4
shift 4
models=()
for argument; do
  if [[ $argument == [!-]*=* ]]; then models+=("$argument"); fi
done
if [ ${#models[@]} -eq 0 ]; then
  for fidelity in 0 0.25 0.5 0.75 0.9 1; do
    set -- "$@" "nano, fidelity $fidelity=nano@1@$fidelity"
  done
  set -- "$@" "nano-flow, 1 step=nano-flow@1"
  for steps in 2 4 8; do
    set -- "$@" "nano-flow, $steps steps=nano-flow@$steps"
  done
fi
python experiments/202611_picture_table/compare.py \
  --benchmarks "$benchmarks" --photos "$photos" --rivals "$rivals" --work "$work" "$@"
