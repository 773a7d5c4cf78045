#!/usr/bin/env bash
# Makes the table. From the repository's root:
#   bash experiments/202611_picture_table/run.sh BENCHMARKS PHOTOS RIVALS WORK [MODEL ...]
# BENCHMARKS holds RealSR, Set5 and Set14, each with HR and LR; PHOTOS holds val/;
# RIVALS holds the ncnn files that README.md names; WORK keeps outputs and values, so
# that a row is computed once. MODEL is NAME=FOLDER[@STEPS[@FIDELITY]].
# Needs: pip install ".[judges]" ncnn. On idle cores add --time as a last argument.
set -euo pipefail
benchmarks=$1 photos=$2 rivals=$3 work=$4
shift 4
python experiments/202611_picture_table/compare.py \
  --benchmarks "$benchmarks" --photos "$photos" --rivals "$rivals" --work "$work" "$@"
