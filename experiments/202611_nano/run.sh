#!/usr/bin/env bash
# Trains, releases and measures the shipped nano. From the repository's root:
#   bash experiments/202611_nano/run.sh PHOTOS BENCHMARKS
# PHOTOS holds train/, val/ and photos.jsonl; BENCHMARKS holds Set5, Set14, RealSR.
set -euo pipefail
photos=$1
benchmarks=$2
here=experiments/202611_nano

linearsr train --config configs/nano.py --workdir runs/nano \
  --override "data.folder=$photos/train" "val.folder=$photos/val"
python $here/release.py runs/nano "$photos/photos.jsonl"
for name in Set5 Set14 RealSR; do
  linearsr eval --model nano --data "$benchmarks/$name" --json |
    tail -n 1 > "runs/nano/eval_$name.json"
done
python $here/collect.py runs/nano
python $here/timing.py
