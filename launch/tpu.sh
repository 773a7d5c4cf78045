#!/usr/bin/env bash
# A training on a slice of Cloud TPUs, through queued resources:
#
#   launch/tpu.sh start NAME CONFIG [FIELD=VALUE...]   asks for the slice and starts
#   launch/tpu.sh resume NAME CONFIG [FIELD=VALUE...]  the same command, on the same slice
#   launch/tpu.sh watch NAME                           state of the slice, then the log
#   launch/tpu.sh stop NAME                            saves, and gives the slice back
#
# From the environment: PROJECT, ZONE, ACCELERATOR (v5litepod-16), RUNTIME
# (v2-alpha-tpuv5-lite), SHARED (a folder that every host mounts, such as Filestore, with
# this repository in SHARED/linearsr_jax; the run goes to SHARED/runs/NAME), SPOT=1 for
# cheaper machines that may be taken away.
set -euo pipefail

usage() {
  sed -n '2,13s/^# \{0,1\}//p' "$0"
  exit 2
}

(($# >= 2)) || usage
action=$1 name=$2
shift 2
: "${PROJECT:?}" "${ZONE:?}" "${SHARED:?}"
: "${ACCELERATOR:=v5litepod-16}" "${RUNTIME:=v2-alpha-tpuv5-lite}"
tpus=(gcloud compute tpus)
where=(--project="$PROJECT" --zone="$ZONE")

on_all_hosts() {
  "${tpus[@]}" tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"
}

train() {
  local config=$1 arguments=""
  shift
  if (($#)); then printf -v arguments ' %q' --override "$@"; fi
  # It goes on when this connection ends. JAX finds the other hosts of the slice.
  on_all_hosts "cd $SHARED/linearsr_jax && pip install -q '.[train,tpu]' &&
    mkdir -p $SHARED/runs && nohup setsid linearsr train --config $config \
      --workdir $SHARED/runs/$name$arguments \
      >$SHARED/runs/$name.\$(hostname).txt 2>&1 </dev/null & sleep 5"
}

case $action in
  start)
    (($# >= 1)) || usage
    spot=()
    if [[ -n ${SPOT:-} ]]; then spot=(--spot); fi
    "${tpus[@]}" queued-resources create "$name" "${where[@]}" --node-id="$name" \
      --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" "${spot[@]}"
    until [[ $("${tpus[@]}" queued-resources describe "$name" "${where[@]}" \
      --format='value(state.state)') == ACTIVE ]]; do sleep 30; done
    train "$@"
    ;;
  resume)
    (($# >= 1)) || usage
    train "$@"
    ;;
  watch)
    "${tpus[@]}" queued-resources describe "$name" "${where[@]}" \
      --format='value(state.state)'
    "${tpus[@]}" tpu-vm ssh "$name" "${where[@]}" --worker=0 \
      --command="cat $SHARED/runs/$name/hosts/*.json; tail -n 20 -f $SHARED/runs/$name.*.txt"
    ;;
  stop)
    # One host is enough: all stop after the same step.
    "${tpus[@]}" tpu-vm ssh "$name" "${where[@]}" --worker=0 --command='
      pkill -TERM -f "linearsr train" || exit 0
      while pgrep -f "linearsr train" >/dev/null; do sleep 1; done'
    "${tpus[@]}" queued-resources delete "$name" "${where[@]}" --force --quiet
    ;;
  *) usage ;;
esac
