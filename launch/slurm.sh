#!/usr/bin/env bash
# A training under SLURM, one task for each GPU:
#
#   sbatch --nodes=4 launch/slurm.sh CONFIG WORKDIR [FIELD=VALUE...]   starts
#   squeue --me; tail -f slurm-JOB.out                                 watches
#   scancel --signal=TERM --batch JOB                                  stops, and saves
#
# Two minutes before its time is over the run saves, and the job queues again. A preempted
# job does the same where the cluster requeues (PreemptMode=REQUEUE) and leaves time to
# save (GraceTime); without GraceTime the steps since the last checkpoint are lost.
# A failure queues the job again unless it has been queued again five times.
# The workdir must be on a file system that the nodes share. Submit from an environment
# with linearsr_jax[train,cuda13].
#SBATCH --job-name=linearsr
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

if (($# < 2)); then
  sed -n '2,13s/^# \{0,1\}//p' "$0"
  exit 2
fi
config=$1 workdir=$2
shift 2
is_told_to_stop="" is_signal_due="" steps=""

# srun takes neither from sbatch, and JAX only three quarters of a GPU's memory.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-8}
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-.95}

# Signals the tasks. Until srun has made step 0, and it may wait long for that, scancel
# says that there is no such job. A second signal would end a task before it has saved,
# so that none is sent after one that has arrived.
signal_tasks() {
  while [[ -n $is_signal_due ]] && kill -0 "$steps" 2>/dev/null; do
    if scancel --signal=TERM "$SLURM_JOB_ID.0"; then
      is_signal_due=""
    else
      sleep 1
    fi
  done
}

# Before the tasks start: a signal that finds no trap ends this script.
trap 'is_told_to_stop=1 is_signal_due=1; signal_tasks' TERM
trap 'is_signal_due=1; signal_tasks' USR1

# JAX finds the other tasks in SLURM's environment. The GPUs starve with the config's one
# thread; a later data.workers wins.
srun --kill-on-bad-exit=0 linearsr train --config "$config" --workdir "$workdir" \
  --override data.workers="$SRUN_CPUS_PER_TASK" "$@" &
steps=$!
signal_tasks # if it was told to stop before `steps` was known

wait "$steps"
status=$?
# A trap ends `wait` early; the tasks are saving then.
while kill -0 "$steps" 2>/dev/null; do
  wait "$steps"
  status=$?
done
# Where they ended before that check, this is still the signal's status; bash remembers
# theirs.
if ((status > 128)); then
  wait "$steps"
  status=$?
fi

# 75: stopped with a checkpoint. A user's TERM reaches this script. When SLURM preempts the
# job, its TERM goes to the tasks alone; if they end within GraceTime, SLURM takes the job
# for one that has failed, and does not queue it again.
# After a failure, which may be another node's and pass, it gets some more tries; not after
# wrong arguments or fields (2).
again=$((status == 75 || (status != 0 && status != 2 && ${SLURM_RESTART_COUNT:-0} < 5)))
if ((again)) && [[ -z $is_told_to_stop ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
