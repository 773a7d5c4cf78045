#!/usr/bin/env bash
# Scores the detectors on the seed kept for the last run. From the repository's root:
#   pip install -e . kneed && bash experiments/202611_knee/run.sh
set -euo pipefail
PYTHONPATH=. python experiments/202611_knee/compare.py 77 \
  --out experiments/202611_knee/results.json
