#!/usr/bin/env bash
# Trains all runs (resumable, skips what is finished) and writes results.json.
#   bash experiments/202611_recipe/run.sh PHOTOS [WORKDIR]
# PHOTOS has the folders train and val.
set -euo pipefail
here=experiments/202611_recipe
workdir=${2-runs/recipe}
python $here/train.py "$1" "$workdir"
python $here/score.py "$1" "$workdir" $here/results.json
