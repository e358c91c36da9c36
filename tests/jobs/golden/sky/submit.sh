#!/usr/bin/env bash
# Launches the job group, with a new key for its servers.
set -euo pipefail
cd "$(dirname "$0")"
export ROLLOUT_KEY="${ROLLOUT_KEY:-$(od -An -tx1 -N32 /dev/urandom | tr -d ' \n')}"
sky jobs launch --yes --secret ROLLOUT_KEY group.yaml
