#!/bin/sh
# Slurm: an array of four tasks, then one report on all of them. In a folder that all machines see:
#   job=$(sbatch --parsable --array=1-4 docs/ci/slurm.sh)
#   sbatch --dependency=afterany:"$job" --wrap='iotests merge parts --html iotests.html --junit junit.xml'
#SBATCH --job-name=iotests
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=01:00:00
set -eu
mkdir -p parts
# Each machine has its own build folder: run directories should be on a local disk. Recorded times must be the same for all, or absent.
export IOTESTS_BUILD_DIR="${TMPDIR:-/tmp}/iotests-$SLURM_ARRAY_TASK_ID"
iotests -j "${SLURM_CPUS_PER_TASK:-2}" --partition auto --jsonl "parts/part-$SLURM_ARRAY_TASK_ID.jsonl"
