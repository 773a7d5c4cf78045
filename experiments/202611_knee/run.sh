#!/usr/bin/env bash
# Scores the detectors on the seed of the last run. From the repository's root:
#   pip install -e . kneed && bash experiments/202611_knee/run.sh
set -euo pipefail
PYTHONPATH=. python experiments/202611_knee/compare.py 101 \
  --out experiments/202611_knee/results.json
