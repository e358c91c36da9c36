#!/usr/bin/env bash
# Makes the secret of the servers' API key where there is none, and the JobSet.
set -euo pipefail
cd "$(dirname "$0")"
if ! kubectl get secret grpo-key >/dev/null 2>&1; then
  od -An -tx1 -N32 /dev/urandom | tr -d ' \n' |
    kubectl create secret generic grpo-key --from-file=key=/dev/stdin
fi
kubectl apply -f jobset.yaml
