"""A run as one batch script of Slurm: the first nodes serve, the rest train."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from sophia_jax.jobs import shell
from sophia_jax.jobs.job import Job, Servers, Step
from sophia_jax.jobs.machines import GPU, TPU
from sophia_jax.types import SophiaError

WARNING_S = 300
"""Time between the signal and the time limit, seconds: a checkpoint is saved."""

_SUBMIT = """\
#!/usr/bin/env bash
# Submits the job, which continues by itself until the run is finished.
set -euo pipefail
mkdir -p {jobs}
sbatch "$(dirname "$0")/job.sbatch"
"""

_BEGIN = r"""
attempt=${SLURM_RESTART_COUNT:-0}
logs=$workdir/jobs/$SLURM_JOB_ID/$attempt
mkdir -p "$logs"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
echo "attempt $attempt on ${nodes[*]}; logs: $logs"

# Ends what an attempt before this one has left on a node that was lost.
export SOPHIA_ATTEMPT=$SLURM_JOB_ID.$attempt
# shellcheck disable=SC2016
srun --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" bash -c '
  for file in /proc/[0-9]*/environ; do
    other=$(tr "\0" "\n" 2>/dev/null < "$file" |
      sed -n "s/^SOPHIA_ATTEMPT=//p") || continue
    case $other in
      "" | "$SOPHIA_ATTEMPT") ;;
      "$SLURM_JOB_ID".*)
        pid=${file#/proc/}
        kill -KILL "${pid%/environ}" 2>/dev/null || true
        ;;
    esac
  done'
""".strip()

_FUNCTIONS = r"""
# Slurm's signal before the time limit: the step saves, and the job is requeued.
# The signal goes to the step itself: srun would kill it.
ending='' current=''
save() {
  local id
  ending=1
  id=$(squeue --noheader --steps --jobs="$SLURM_JOB_ID" --format='%i %j' |
    sed -n "s/ $current\$//p")
  # It reports an error where the signal has arrived already.
  [ -z "$id" ] || scancel --signal=TERM "$id" 2>/dev/null || true
}
trap save USR1

requeue() {
  # Steps end before the script where Slurm ends the job: cancelled, or lost with
  # a node and requeued already.
  scontrol show job "$SLURM_JOB_ID" | grep -q 'JobState=RUNNING' || exit 1
  echo "$1; requeued"
  scontrol requeue "$SLURM_JOB_ID"
  sleep 600
  exit 1
}

# Names and sizes of samples, answers and checkpoints: what an attempt adds to.
state() {
  find "$workdir" -not -path "$workdir/jobs/*" -not -name metrics.jsonl \
    \( -path '*/checkpoints/*' -o -name '*.jsonl' \) -printf '%p %s\n' |
    sort | cksum
}
begun=$(state)

is_done() { grep -qs "\"$1\":" "$workdir/stages.json"; }

# run NAME DONE OPTIONS...: a step of the trainer, by srun.
run() {
  local name=$1 step=$2 code=0 child
  shift 2
  [ -z "$ending" ] || requeue "the time limit is near"
  echo "$name; log: $logs/$name.log"
  current=$name
  srun --cpu-bind=none --job-name="$name" --label \
    --output="$logs/$name.log" "$@" </dev/null &
  child=$!
  wait "$child" || code=$?
  if [ "$ending" ]; then
    wait "$child" || true
    requeue "$name: the time limit is near"
  fi
  if [ "$code" = 0 ] && { [ -z "$step" ] || is_done "$step"; }; then
    return
  fi
  tail -n 3 "$logs/$name.log" >&2 || true
  if ((attempt < restarts)) && [ "$(state)" != "$begun" ]; then
    requeue "$name ended with code $code"
  fi
  echo "error: $name ended with code $code; see $logs/$name.log" >&2
  exit 1
}
""".strip()

_SERVING = r"""
# serve NAME NODE COMMAND...: one server; it is started again when it ends.
serve() {
  local name=$1 node=$2
  shift 2
  while :; do
    srun --cpu-bind=none --nodes=1 --ntasks=1 --nodelist="$node" \
      --open-mode=append --output="$logs/$name.log" "$@" </dev/null || true
    # One that has never answered cannot be helped by that.
    [ -s "$logs/$name.url" ] || return 1
    echo "$name has ended; it is started again"
    sleep 5
  done
}

# answering NAME PID: returns once a server has answered.
answering() {
  until [ -s "$logs/$1.url" ]; do
    if ! kill -0 "$2" 2>/dev/null; then
      tail -n 3 "$logs/$1.log" >&2 || true
      echo "error: $1 did not start; see $logs/$1.log" >&2
      exit 1
    fi
    sleep 1
  done
}

# urls FIRST COUNT: URLs of the servers on so many nodes from the FIRST on.
urls() {
  local all
  all=$(printf "http://%s:$port," "${nodes[@]:$1:$2}")
  echo "${all%,}"
}
""".strip()


def files(job: Job) -> dict[str, str]:
  """Returns the text of each file by its name.

  Raises:
    SophiaError: a TPU, which Slurm does not manage.
  """
  if TPU in (job.trainer.family, job.server.family):
    raise SophiaError(
      f"config.topology={job.trainer.name}:{job.trainer.topology}: Slurm "
      "manages no TPUs; use --target=gke, or a topology of GPUs"
    )
  jobs = shlex.quote(f"{job.workdir}/jobs")
  return {
    "job.sbatch": "\n".join(_script(job)),
    "submit.sh": _SUBMIT.format(jobs=jobs),
  }


def _script(job: Job) -> Iterator[str]:
  yield "#!/usr/bin/env bash"
  for option in _options(job):
    yield f"#SBATCH {option}"
  yield "# Written by launch.submit. A requeued job resumes where it stopped."
  yield "set -euo pipefail"
  yield f"cd {shlex.quote(job.root)}"
  yield f"workdir={shlex.quote(job.workdir)} restarts={job.config.restarts}"
  yield _BEGIN
  yield ""
  yield _FUNCTIONS
  yield ""
  if job.servers:
    yield _SERVING
    yield ""
    yield from _serving(job)
    yield ""
  yield "# The trainer."
  yield f'trainer=("${{nodes[@]:{job.nodes - job.trainer.hosts}}}")'
  if any(step.processes != "one" for step in job.steps):
    yield 'all=$(IFS=, && echo "${trainer[*]}")'
  for step in job.steps:
    yield from _step(job, step)
  yield 'echo "finished: $workdir"'
  if job.servers:
    # The loops that start servers again, and with the job their servers.
    yield 'kill "${pids[@]}" 2>/dev/null || true'
  yield ""


def _options(job: Job) -> Iterator[str]:
  """Yields sbatch's options."""
  yield f"--job-name={job.name}"
  yield f"--nodes={job.nodes} --ntasks-per-node=1 --exclusive"
  if job.trainer.family == GPU:
    yield f"--gpus-per-node={job.trainer.chips}"
  # One job of a name at a time; a requeued one appends to the same log.
  yield "--dependency=singleton --requeue --open-mode=append"
  yield f"--output={job.workdir}/jobs/%j.log"
  yield f"--signal=B:USR1@{WARNING_S}"
  if job.config.queue:
    yield f"--partition={job.config.queue}"
  if job.config.time:
    yield f"--time={job.config.time}"
  yield from job.config.sbatch


def _serving(job: Job) -> Iterator[str]:
  """Yields the start of every server, and the wait for it."""
  yield "# The servers, and a key that this attempt alone knows."
  yield f"port={job.config.port}"
  yield (
    f"export {job.key}=${{{job.key}:-$(od -An -tx1 -N32 /dev/urandom | "
    "tr -d ' \\n')}"
  )
  yield "servers=() pids=()"
  first = 0
  for servers in job.servers:
    yield f"for i in $(seq 0 {servers.count - 1}); do"
    name = f"{servers.name}-$i"
    command = shell.serve(
      job, servers, f'"$logs/{name}.url"', f'"$logs/{name}.server.log"'
    )
    yield f'  serve "{name}" "${{nodes[{first} + i]}}" {command} &'
    yield f'  servers+=("{name}") pids+=($!)'
    yield "done"
    yield f"{_variable(servers)}=$(urls {first} {servers.count})"
    first += servers.count
  yield 'for i in "${!servers[@]}"; do'
  yield '  answering "${servers[i]}" "${pids[i]}"'
  yield "done"


def _variable(servers: Servers) -> str:
  return f"urls_{servers.name.replace('-', '_')}"


def _step(job: Job, step: Step) -> Iterator[str]:
  """Yields a step of the trainer, unless it is done."""
  hosts = job.trainer.hosts if step.processes != "one" else 1
  nodes = "$all" if step.processes != "one" else "${trainer[0]}"
  urls = {s.key: f'"${_variable(s)}"' for s in job.servers}
  command = shell.step(job, step, urls)
  if step.processes == "shards" and hosts > 1:
    yield "# shellcheck disable=SC2016"
    own = f"""'exec "$@" --shard="$SLURM_PROCID/{hosts}"'"""
    command = f"bash -c {own} shard {command}"
  name = f"{step.module.rpartition('.')[2]}-{step.done or 'report'}"
  call = (
    f"run {shlex.quote(name.replace('/', '-'))} {shlex.quote(step.done)} "
    f'--nodes={hosts} --ntasks={hosts} --nodelist="{nodes}" \\\n  {command}'
  )
  yield f"is_done {shlex.quote(step.done)} || {call}" if step.done else call
