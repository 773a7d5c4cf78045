#!/usr/bin/env bash
# Trains what is missing, scores all, and writes results.json. From the repository's root:
#   bash experiments/202611_tags/run.sh PHOTOS START [WORKDIR]
# PHOTOS has the folders train and val and photos.jsonl; START is the model folder that the
# comparison goes on from (202611_recipe's experts/pretrain/model).
set -euo pipefail
here=experiments/202611_tags
workdir=${3-runs/tags}
python $here/train.py nano "$1" "$workdir"
python $here/train.py compare "$1" "$workdir" "$2"
python $here/score.py "$1" "$workdir" $here/results.json
