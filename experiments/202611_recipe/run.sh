#!/usr/bin/env bash
# Trains all runs (resumable, skips what is finished) and writes results.json.
#   bash experiments/202611_recipe/run.sh PHOTOS [WORKDIR]
# PHOTOS has the folders train and val.
set -euo pipefail
here=experiments/202611_recipe
workdir=${2-runs/recipe}
python $here/train.py knee "$1" "$workdir"
python $here/train.py experts "$1" "$workdir"
python $here/score.py "$workdir" $here/results.json
