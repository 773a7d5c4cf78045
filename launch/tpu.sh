#!/usr/bin/env bash
# A training on slices of Cloud TPUs, through queued resources:
#
#   launch/tpu.sh start NAME CONFIG [FIELD=VALUE...]   asks for the slices and starts
#   launch/tpu.sh resume NAME CONFIG [FIELD=VALUE...]  the same command, on the same slices
#   launch/tpu.sh watch NAME                           state of the slices, then the log
#   launch/tpu.sh stop NAME                            saves, and gives the slices back
#
# From the environment:
#   PROJECT, ZONE
#   ACCELERATOR   v5litepod-16 if not set; docs/launch.md has a table of the names
#   RUNTIME       v2-alpha-tpuv5-lite if not set
#   SLICES        1 if not set
#   SPOT=1        cheaper slices, which may be taken away: then stop, and start again
#   CREATE_FLAGS  further flags of gcloud, such as "--reserved --network=NETWORK"
#   SHARED        the folder that all hosts share, with this repository in
#                 SHARED/linearsr_jax; the run goes to SHARED/runs/NAME
#   MOUNT         IP:/SHARE of NFS, which hosts mount at SHARED where nothing is mounted
#   PYTHON        Python 3.11 or newer of the hosts, in place of uv's
#   FORCE=1       stop gives the slices back even if nothing says that the run was saved
set -euo pipefail

usage() {
  sed -n '2,23s/^# \{0,1\}//p' "$0"
  exit 2
}

fail() {
  echo "$name: $*" >&2
  exit 1
}

(($# >= 2)) || usage
action=$1 name=$2
shift 2
: "${PROJECT:?}" "${ZONE:?}" "${SHARED:?}"
: "${ACCELERATOR:=v5litepod-16}" "${SLICES:=1}" "${RUNTIME:=v2-alpha-tpuv5-lite}"
: "${MOUNT:=}" "${PYTHON:=}" "${PAUSE:=30}"
tpus=(gcloud compute tpus)
where=(--project="$PROJECT" --zone="$ZONE")
run=$SHARED/runs/$name

# on_hosts all|0 COMMAND: on every host of every slice, or on the first of the first.
on_hosts() {
  "${tpus[@]}" queued-resources ssh "$name" "${where[@]}" --node="$1" --worker="$1" \
    --command="$2"
}

# count_hosts WORD COMMAND: runs a command on every host and prints how many came to its
# end. gcloud's exit code does not tell: it is 0, too, if no host could be reached. (As a
# file, /dev/stderr would be emptied first, and as a socket it cannot be opened.)
count_hosts() {
  on_hosts all "$2
    echo 'linearsr: $1'" | tee >(cat >&2) | grep -c "linearsr: $1"
}

# How many hosts the slices have, whether or not they answer.
count_endpoints() {
  local slice found addresses all=()
  for ((slice = 0; slice < SLICES; slice++)); do
    found=$("${tpus[@]}" tpu-vm describe "$(node "$slice")" "${where[@]}" \
      --format='value(networkEndpoints[].ipAddress)') || return
    read -ra addresses <<<"${found//;/ }"
    all+=("${addresses[@]}")
  done
  echo "${#all[@]}"
}

# node I: the name that queued resources give the node of slice I.
node() {
  ((SLICES > 1)) && echo "$name-$1" || echo "$name"
}

state() {
  "${tpus[@]}" queued-resources describe "$name" "${where[@]}" \
    --format='value(state.state)'
}

give_back() {
  "${tpus[@]}" queued-resources delete "$name" "${where[@]}" --force --quiet
}

wait_until_active() {
  local now failures=0
  while true; do
    if now=$(state) && [[ -n $now ]]; then
      failures=0
    else
      # The network may fail once; an expired login or a deleted request fails for good.
      ((++failures < 5)) ||
        fail "gcloud failed to tell the state of the slices $failures times in a row; see" \
          "above. They may still come, and are then charged. When launch/tpu.sh watch" \
          "$name says ACTIVE, resume, or give them back with stop"
    fi
    case $now in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED) fail "$now; launch/tpu.sh stop $name gives it back" ;;
    esac
    sleep "$PAUSE"
  done
}

# What a host needs: the shared folder, and an environment with this repository.
prepare() {
  echo "set -e"
  echo "if pgrep -f '[l]inearsr train' >/dev/null; then"
  echo "  echo 'a training is running here; stop it first' >&2; exit 1; fi"
  if [[ -n $MOUNT ]]; then
    # A new machine may still be installing its own updates.
    echo "if ! mountpoint -q $SHARED; then
        if ! command -v mount.nfs >/dev/null; then
          sudo apt-get -q -o DPkg::Lock::Timeout=300 update
          sudo apt-get -qy -o DPkg::Lock::Timeout=300 install nfs-common
        fi
        sudo mkdir -p $SHARED
        sudo mount -t nfs $MOUNT $SHARED
      fi"
  fi
  # The hosts share the folder, and pip builds where the source is: each takes a copy.
  echo "rm -rf ~/source
    cp -r $SHARED/linearsr_jax ~/source
    cd ~/source"
  if [[ -n $PYTHON ]]; then
    echo "[ -d ~/linearsr ] || $PYTHON -m venv ~/linearsr
      ~/linearsr/bin/pip install -q '.[train,tpu]'"
  else
    # ssh with a command reads no profile, so ~/.local/bin is not on PATH.
    echo "uv=\$(command -v uv || echo ~/.local/bin/uv)
      if [ ! -x \$uv ]; then
        curl -LsSf https://astral.sh/uv/install.sh -o ~/install_uv.sh
        sh ~/install_uv.sh
      fi
      [ -d ~/linearsr ] || \$uv venv --python 3.12 ~/linearsr
      \$uv pip install -q --python ~/linearsr/bin/python '.[train,tpu]'"
  fi
  echo "mkdir -p $SHARED/runs"
}

train() {
  local config=$1 arguments command tries hosts answering ready started
  shift
  # The chips starve with the config's one thread; a later data.workers wins.
  printf -v arguments ' %q' --override data.workers=32 "$@"
  hosts=$(count_endpoints) || hosts=0
  ((hosts > 0)) || fail "nothing says how many hosts there are"
  for tries in {1..10}; do
    answering=$(count_hosts here :) || true
    ((answering == hosts)) && break
    ((tries < 10)) ||
      fail "$answering of $hosts hosts answer; launch/tpu.sh resume tries again"
    sleep "$PAUSE" # a new machine lets nobody in for the first minute
  done
  ready=$(count_hosts ready "$(prepare)") || true
  ((ready == hosts)) || fail "$ready of $hosts hosts are ready; see above"
  # The shell that notes the exit code gets the signal to stop, too, and must outlive
  # the training. A new slice finds the programs that an earlier one has compiled.
  printf -v command %q "trap : TERM
    JAX_COMPILATION_CACHE_DIR=$SHARED/programs ~/linearsr/bin/linearsr train \
      --config $config --workdir $run$arguments
    echo \$? >$run.\$(hostname).exit"
  # The training keeps running after this connection closes. JAX finds the other hosts.
  started=$(count_hosts started "set -e
    cd ~/source
    rm -f $run.\$(hostname).exit
    nohup setsid bash -c $command >>$run.\$(hostname).txt 2>&1 </dev/null &") || true
  ((started == hosts)) || fail "$started of $hosts hosts have started; see above"
  echo "$name: $hosts hosts train; launch/tpu.sh watch $name shows how" >&2
}

# Gives the slices back if the run is saved, or if there is none.
stop() {
  local now answer code=""
  now=$(state)
  case $now in
    CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING | FAILED | SUSPENDED)
      echo "$name: $now, nothing runs there" >&2
      give_back
      return
      ;;
  esac
  # One host is enough: all stop after the same step. The brackets keep the pattern
  # from matching the shell that looks for it.
  answer=$(on_hosts 0 "
    if pgrep -f '[l]inearsr train' >/dev/null; then
      pkill -TERM -f '[l]inearsr train' || { echo 'cannot stop the training' >&2; exit 1; }
      while pgrep -f '[l]inearsr train' >/dev/null; do sleep 1; done
    fi
    echo \"linearsr: exit code \$(cat $run.\$(hostname).exit)\"") || true
  [[ $answer =~ "linearsr: exit code "([0-9]+) ]] && code=${BASH_REMATCH[1]}
  case $code in
    0) echo "$name: the run is finished" >&2 ;;
    75) echo "$name: stopped and saved" >&2 ;;
    *)
      # It may have been taken away meanwhile. Of SUSPENDING slices the hosts go whatever
      # this script does.
      now=$(state)
      case $now in
        FAILED | SUSPENDING | SUSPENDED)
          echo "$name: $now, and nothing says that the run was saved; the next start goes" \
            "on from its newest checkpoint" >&2
          ;;
        *)
          [[ -n ${FORCE:-} ]] || fail "not given back, and still charged:" \
            "${code:+exit code $code, }nothing says that the run was saved. See" \
            "launch/tpu.sh watch $name; resume it, or give the slices back all the same:" \
            "FORCE=1 launch/tpu.sh stop $name"
          ;;
      esac
      ;;
  esac
  give_back
}

case $action in
  start)
    (($# >= 1)) || usage
    slices=(--node-id="$name")
    if ((SLICES > 1)); then slices=(--node-count="$SLICES" --node-prefix="$name"); fi
    if [[ -n ${SPOT:-} ]]; then slices+=(--spot); fi
    read -ra flags <<<"${CREATE_FLAGS:-}"
    "${tpus[@]}" queued-resources create "$name" "${where[@]}" "${slices[@]}" \
      --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" \
      ${flags[@]+"${flags[@]}"}
    wait_until_active
    train "$@"
    ;;
  resume)
    (($# >= 1)) || usage
    train "$@"
    ;;
  watch)
    state
    on_hosts 0 "tail -qn 1 $run/hosts/*.json; grep -sH . $run.*.exit
      tail -n 20 -F $run.*.txt"
    ;;
  stop) stop ;;
  *) usage ;;
esac
