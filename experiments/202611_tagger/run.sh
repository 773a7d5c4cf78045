#!/usr/bin/env bash
# Fits and scores the light tagger. From the repository's root, with the photographs in
# ../shared/photos:
#   pip install -e . && bash experiments/202611_tagger/run.sh
# What storing the network as float16 changes needs torch, and the weights as published:
#   PYTHONPATH=. python experiments/202611_tagger/compare_float16.py ../shared/photos \
#     efficientnet-lite0-57934424.pth --out experiments/202611_tagger/float16.json
set -euo pipefail
PYTHONPATH=. JAX_PLATFORMS=cpu python experiments/202611_tagger/calibrate.py \
  ../shared/photos --out experiments/202611_tagger/results.json --write
