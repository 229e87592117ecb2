#!/usr/bin/env bash
# One pivot-jax command on a GPU cluster under SLURM: one process per GPU, on any number of nodes.
#
#   sbatch --nodes=4 launch/slurm.sh train --config pivot/stage1b.py --workdir /shared/runs/stage1b \
#       --config.data.sources.0.path=/data/onevision.json ...
#
# Arguments after launch/slurm.sh are passed to pivot-jax unchanged. The workdir, the data and the environment (.venv, or
# the one named by PIVOT_VENV) must be on a file system that all nodes share.
#
# - With PIVOT_DISTRIBUTED=auto, jax.distributed reads coordinator, process count and process id from SLURM's variables.
# - Five minutes before the time limit SLURM sends SIGTERM to the processes (--signal); pivot-jax saves a checkpoint
#   and exits with 143, and this script requeues the job. The next start resumes from the checkpoint. The same happens
#   when the job is preempted. Any other exit code ends the job.
# - Set the lines marked "site" to your cluster's names, or set them on sbatch's command line, which has priority.
#
#SBATCH --job-name=pivot-jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=pivot-jax-%j.log
#SBATCH --signal=TERM@300
# site: #SBATCH --partition=gpu
# site: #SBATCH --account=my-project
set -uo pipefail

if [ "$#" -eq 0 ]; then
  echo "usage: sbatch [sbatch options] launch/slurm.sh COMMAND [options of pivot-jax]" >&2
  exit 2
fi
source "${PIVOT_VENV:-${SLURM_SUBMIT_DIR:-.}/.venv}/bin/activate" || exit 1
export PIVOT_DISTRIBUTED=auto
export PYTHONUNBUFFERED=1
# One process per GPU; --kill-on-bad-exit ends the step when a process fails, which would otherwise hang in a collective.
srun --kill-on-bad-exit=1 --gpu-bind=none pivot-jax "$@" &
step=$!
trap 'kill -TERM "$step" 2>/dev/null' TERM # preemption also signals this shell
wait "$step"
code=$?
while kill -0 "$step" 2>/dev/null; do # a trapped signal ends "wait" before the step has saved
  wait "$step"
  code=$?
done

if [ "$code" -eq 143 ]; then
  echo "stopped by a signal after saving; requeued"
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$code"
