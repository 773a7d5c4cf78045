#!/usr/bin/env bash
# A training on slices of Cloud TPUs, through queued resources:
#
#   launch/tpu.sh start NAME CONFIG [FIELD=VALUE...]   asks for the slices and starts
#   launch/tpu.sh resume NAME CONFIG [FIELD=VALUE...]  the same command, on the same slices
#   launch/tpu.sh watch NAME                           state of the slices, then the log
#   launch/tpu.sh stop NAME                            saves, and gives the slices back
#
# From the environment: PROJECT, ZONE, ACCELERATOR (v5litepod-16), SLICES (1), RUNTIME
# (v2-alpha-tpuv5-lite), SHARED (a folder that every host mounts, such as Filestore, with
# this repository in SHARED/linearsr_jax; the run goes to SHARED/runs/NAME), SPOT=1 for
# cheaper machines that may be taken away: then stop and start go on from the last save.
# The hosts need uv, or Python 3.11 or newer as PYTHON.
set -euo pipefail

usage() {
  sed -n '2,14s/^# \{0,1\}//p' "$0"
  exit 2
}

(($# >= 2)) || usage
action=$1 name=$2
shift 2
: "${PROJECT:?}" "${ZONE:?}" "${SHARED:?}"
: "${ACCELERATOR:=v5litepod-16}" "${SLICES:=1}" "${RUNTIME:=v2-alpha-tpuv5-lite}" "${PYTHON:=}"
tpus=(gcloud compute tpus)
where=(--project="$PROJECT" --zone="$ZONE")

# on_hosts all|0 COMMAND: on every host of every slice, or on the first of the first.
on_hosts() {
  "${tpus[@]}" queued-resources ssh "$name" "${where[@]}" --node="$1" --worker="$1" \
    --command="$2"
}

state() {
  "${tpus[@]}" queued-resources describe "$name" "${where[@]}" \
    --format='value(state.state)'
}

wait_until_active() {
  local now
  until now=$(state) && [[ $now == ACTIVE ]]; do
    case $now in
      FAILED | SUSPENDED)
        echo "$name: $now; launch/tpu.sh stop $name gives it back" >&2
        exit 1
        ;;
    esac
    sleep 30
  done
}

train() {
  local config=$1 arguments="" make_environment="uv venv --python 3.12 ~/linearsr"
  shift
  if (($#)); then printf -v arguments ' %q' --override "$@"; fi
  if [[ -n $PYTHON ]]; then make_environment="$PYTHON -m venv ~/linearsr"; fi
  # pip builds in the folder that it is given, which the hosts share: each takes a copy.
  on_hosts all "set -e
    [ -d ~/linearsr ] || $make_environment
    rm -rf ~/source && cp -r $SHARED/linearsr_jax ~/source && cd ~/source
    if command -v uv >/dev/null; then
      uv pip install -q --python ~/linearsr/bin/python '.[train,tpu]'
    else
      ~/linearsr/bin/pip install -q '.[train,tpu]'
    fi
    mkdir -p $SHARED/runs"
  # The training keeps running after this connection closes. JAX finds the other hosts.
  on_hosts all "cd ~/source && { nohup setsid ~/linearsr/bin/linearsr train \
    --config $config --workdir $SHARED/runs/$name$arguments \
    >$SHARED/runs/$name.\$(hostname).txt 2>&1 </dev/null & }"
}

case $action in
  start)
    (($# >= 1)) || usage
    nodes=(--node-id="$name") spot=()
    if ((SLICES > 1)); then nodes=(--node-count="$SLICES" --node-prefix="$name"); fi
    if [[ -n ${SPOT:-} ]]; then spot=(--spot); fi
    "${tpus[@]}" queued-resources create "$name" "${where[@]}" "${nodes[@]}" \
      --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" "${spot[@]}"
    wait_until_active
    train "$@"
    ;;
  resume)
    (($# >= 1)) || usage
    train "$@"
    ;;
  watch)
    state
    on_hosts 0 "cat $SHARED/runs/$name/hosts/*.json; tail -n 20 -f $SHARED/runs/$name.*.txt"
    ;;
  stop)
    # One host is enough: all stop after the same step. The brackets keep the pattern
    # from matching the shell that looks for it. A slice that was taken away has no
    # hosts, and is given back all the same.
    on_hosts 0 '
      pkill -TERM -f "[l]inearsr train" || exit 0
      while pgrep -f "[l]inearsr train" >/dev/null; do sleep 1; done' ||
      echo "$name: no host answers" >&2
    "${tpus[@]}" queued-resources delete "$name" "${where[@]}" --force --quiet
    ;;
  *) usage ;;
esac
