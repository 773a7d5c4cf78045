#!/usr/bin/env bash
# A training under SLURM, one task for each GPU:
#
#   sbatch --nodes=4 launch/slurm.sh CONFIG WORKDIR [FIELD=VALUE...]   starts
#   squeue --me; tail -f slurm-JOB.out                                 watches
#   scancel --signal=TERM --batch JOB                                  stops, and saves
#
# Two minutes before its time is over the run saves and the job queues again; so it does
# when it is preempted. The workdir must be on a file system that the nodes share. Submit
# from an environment with linearsr_jax[train,cuda13].
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
  sed -n '2,10s/^# \{0,1\}//p' "$0"
  exit 2
fi
config=$1 workdir=$2
shift 2
is_out_of_time=""

# srun takes neither from sbatch, and JAX only three quarters of a GPU's memory.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-8}
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-.95}
overrides=()
if (($#)); then overrides=(--override "$@"); fi

# JAX finds the other tasks in SLURM's environment.
srun --kill-on-bad-exit=0 linearsr train --config "$config" --workdir "$workdir" \
  "${overrides[@]}" &
steps=$!

trap 'scancel --signal=TERM "$SLURM_JOB_ID.0"' TERM
trap 'is_out_of_time=1; scancel --signal=TERM "$SLURM_JOB_ID.0"' USR1

wait "$steps"
status=$?
# A trap ends `wait` early; the tasks are saving then.
while kill -0 "$steps" 2>/dev/null; do
  wait "$steps"
  status=$?
done

# 75: stopped with a checkpoint. Only the end of its time asks for another turn; whoever
# sent TERM wanted it to stop.
if ((status == 75)) && [[ -n $is_out_of_time ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
