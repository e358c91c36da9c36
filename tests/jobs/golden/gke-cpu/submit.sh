#!/usr/bin/env bash
# Makes the secret of the servers' API key where there is none, and the JobSet.
set -euo pipefail
cd "$(dirname "$0")"
kubectl apply -f jobset.yaml
