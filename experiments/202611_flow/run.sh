#!/usr/bin/env bash
# Trains nano-flow by the paper's three stages, and releases it. From the repository's root:
#   bash experiments/202611_flow/run.sh PHOTOS FLOW
# PHOTOS holds train/, val/ and photos.jsonl; FLOW is the model folder that release 0.2.0
# bundled as nano. Started again it goes on where it stopped.
set -euo pipefail
photos=$1 flow=$2
here=experiments/202611_flow
mkdir -p runs

python $here/seed.py runs/seed "$flow"
for part in train val; do
  linearsr tag "$photos/$part" --tagger light --cache "runs/tags_$part.jsonl"
done
linearsr train --workdir runs/flow \
  --config configs/pretrain.py:nano configs/experts.py:nano configs/sft.py:nano \
  --override "data.folder=$photos/train" data.cache_gb=4 "val.folder=$photos/val" \
  condition.kind=tags condition.file=runs/tags_train.jsonl \
  condition.val_file=runs/tags_val.jsonl condition.dropout=0.5 \
  val.steps=4 val.every=400 checkpoint_every=200 log_every=50 \
  pretrain.init_from=runs/seed pretrain.steps=3200 \
  pretrain.optimizer.warmup_steps=100 \
  experts.steps=720 experts.optimizer.warmup_steps=50 \
  experts.val.every=80 experts.val.crop_size=128 \
  sft.steps=240 sft.optimizer.warmup_steps=20 sft.optimizer.decay_steps=220 \
  sft.val.every=60 sft.val.crop_size=128
python experiments/202611_nano/release.py runs/flow/sft "$photos/photos.jsonl"
