#!/usr/bin/env bash
# Submits the job, which continues by itself until the run is finished.
set -euo pipefail
mkdir -p /shared/sophia_grpo_8b/jobs
sbatch "$(dirname "$0")/job.sbatch"
