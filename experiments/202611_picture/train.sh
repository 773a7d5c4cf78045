#!/usr/bin/env bash
# Trains nano's mean and perceptual ends and makes the slider.
#
#   bash experiments/202611_picture/train.sh PHOTOS FLOW_MODEL
#
# PHOTOS has train/, val/ and photos.jsonl; FLOW_MODEL is a model folder of the first
# stage (configs/nano.py:flow). Needs the extra "judges". See README.md for what the
# shipped weights went through.
set -euo pipefail
photos=$1 flow=$2
cd "$(dirname "$0")/../.."
mkdir -p runs
if [ ! -f runs/train.safetensors ]; then
  linearsr prepare decoded "$photos/train" runs/train.safetensors
fi
data=(data.folder=runs/train.safetensors "val.folder=$photos/val")
linearsr train --config configs/nano.py:mean --workdir runs/mean \
  --override "init_from=$flow" "${data[@]}"
linearsr train --config configs/nano.py:perceptual --workdir runs/perceptual \
  --override init_from=runs/mean/model "${data[@]}"
python experiments/202611_picture/release.py "$flow" runs/mean/model \
  runs/perceptual/model "$photos/photos.jsonl" runs/before \
  --low 0.15 --high 0.72 --default-fidelity 0.9
linearsr train --config configs/nano.py:judges --workdir runs/judges \
  --override init_from=runs/before "${data[@]}"
python experiments/202611_picture/go_on.py runs/before runs/judges/model \
  "$photos/photos.jsonl" runs/nano --place 0.5
