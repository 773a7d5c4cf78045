#!/usr/bin/env bash
# Times the paper's scale on this machine's accelerator and writes results.json:
#   bash experiments/202611_speed/run.sh [PRESET]
set -euo pipefail
here=experiments/202611_speed
preset=${1-1600m}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# One JSON object is the last line of standard output.
bench() {
  local name=$1
  shift
  linearsr bench "$@" --json | tail -n 1 >"$work/$name.json"
}
bench attention attention
bench forward forward --preset "$preset" --dtype bfloat16 --size 512 1024 2048 4096
bench upscale_4 upscale --preset "$preset" --dtype bfloat16 --steps 4 --size 512 1024 2048 4096
bench upscale_20 upscale --preset "$preset" --dtype bfloat16 --steps 20 --size 1024
bench pixel upscale --preset small --dtype bfloat16 --steps 4 --size 512 1024 2048 4096 8192
bench experts experts --preset small
if python -c 'import diffusers, torch; assert torch.cuda.is_available()' 2>/dev/null; then
  python $here/diffusers_forward.py "$preset" 512 1024 2048 4096 >"$work/diffusers.json"
fi
python - "$work" $here/results.json <<'PYTHON'
import json
import pathlib
import sys

found = sorted(pathlib.Path(sys.argv[1]).glob("*.json"))
results = {path.stem: json.loads(path.read_text()) for path in found}
pathlib.Path(sys.argv[2]).write_text(json.dumps(results, indent=1) + "\n")
PYTHON
