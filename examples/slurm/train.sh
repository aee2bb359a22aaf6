#!/bin/bash
# Two nodes with eight GPUs each. Submit from the repository's folder: sbatch examples/slurm/train.sh
#SBATCH --job-name=lambda-grpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=runs/slurm-%j.log
#SBATCH --signal=USR1@300

# One task is one rank: Lightning reads rank and world size from SLURM. 300 s before the time limit each rank gets SIGUSR1; the
# run saves its state at the end of the update and exits with status 75, which requeues the job here. A preempted job is
# requeued by SLURM (--requeue). Either way --resume continues from the newest complete checkpoint. All nodes need one file
# system for runs/. The time before the limit must be longer than one step.
set -u
ROOT=${ROOT:-runs/lambda-7b}
ARGUMENTS=(
  --config configs/base.yaml
  --config configs/model/qwen2.5-7b.yaml
  --config configs/preference/lambda.yaml
  --config configs/data/math.yaml
  --config configs/strategy/hybrid.yaml
  --data.batch_size 128
  --trainer.default_root_dir "$ROOT"
)
if compgen -G "$ROOT/checkpoints/*.ckpt" > /dev/null; then
  ARGUMENTS+=(--resume)
fi

srun --kill-on-bad-exit=1 lambda-grpo fit "${ARGUMENTS[@]}"
status=$?
if [ "$status" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
