"""A real Slurm of two nodes of one core each, both on this machine."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from sophia_jax.servers.supervise import free_port

NODES = ("n1", "n2")
HOSTS = Path("/etc/hosts")
PROGRAMS = (
  *("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "sinfo"),
  *("munge", "unmunge", "munged"),
)

# auth/munge: without it no step starts. cred_expire: a requeued job waits as long.
CONF = """\
ClusterName=two
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ctld}
AuthType=auth/munge
AuthInfo=cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool-%n
SlurmctldPidFile={dir}/ctld.pid
SlurmdPidFile={dir}/d-%n.pid
SlurmctldLogFile={dir}/ctld.log
SlurmdLogFile={dir}/d-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
MpiDefault=none
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n1} CPUs=1
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n2} CPUs=1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
  """Says what the cluster needs and is not here; "" if nothing."""
  absent = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
  if absent:
    return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
  if os.geteuid() != 0:
    return "the Slurm of a test is started by root"
  try:
    pwd.getpwnam("munge")
  except KeyError:
    return "no user munge: apt-get install munge"
  if not os.access(HOSTS, os.W_OK):
    return f"{HOSTS} cannot be written: the nodes get their names there"
  return ""


def _path() -> str:
  return f"{os.environ['PATH']}:/usr/sbin"


class TwoNodes:
  """The cluster; commands of Slurm run in its environment."""

  def __init__(self, directory: Path):
    self.directory = directory
    self.environment = {
      **os.environ,
      "PATH": _path(),
      "SLURM_CONF": str(directory / "slurm.conf"),
    }

  def call(self, *command: object) -> str:
    done = subprocess.run(
      [*map(str, command)],
      env=self.environment,
      capture_output=True,
      text=True,
      timeout=60,
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout.strip()

  def start(self) -> None:
    for name in ("state", "spool-n1", "spool-n2"):
      (self.directory / name).mkdir()
    ports = {name: free_port() for name in ("ctld", *NODES)}
    text = CONF.format(dir=self.directory, **ports)
    (self.directory / "slurm.conf").write_text(text)
    self.call("slurmctld", "-f", self.directory / "slurm.conf")
    for node in NODES:
      self.start_node(node)
    until(lambda: self.states() == {n: "idle" for n in NODES}, 60)

  def start_node(self, node: str) -> None:
    conf = self.directory / "slurm.conf"
    until(lambda: not _alive(self._pid(f"d-{node}")), 30)
    self.call("slurmd", "-f", conf, "-N", node)

  def kill_node(self, node: str) -> None:
    """Ends a node's daemon as a crash does; what runs there is left behind."""
    os.kill(self._pid(f"d-{node}"), signal.SIGKILL)
    self.call(
      *("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    )

  def states(self) -> dict[str, str]:
    lines = self.call("sinfo", "-h", "-N", "-o", "%N %T").splitlines()
    return dict(line.split() for line in lines)

  def log(self, workdir: Path) -> str:
    """What the jobs of a workdir have said, for a failed assertion."""
    logs = sorted((workdir / "jobs").rglob("*.log"))
    return "\n".join(f"== {p}\n{p.read_text()[-2000:]}" for p in logs)

  def job(self, number: str) -> dict[str, str]:
    """Keys and values of `scontrol show job`."""
    words = self.call("scontrol", "show", "job", number).split()
    return dict(word.split("=", 1) for word in words if "=" in word)

  def stop(self) -> None:
    with contextlib.suppress(AssertionError):
      self.call("scancel", "--user=root")
      until(lambda: not self.call("squeue", "-h"), 30)
    for name in ("ctld", "d-n1", "d-n2"):
      if _alive(pid := self._pid(name)):
        os.kill(pid, signal.SIGTERM)

  def _pid(self, name: str) -> int:
    path = self.directory / f"{name}.pid"
    return int(path.read_text()) if path.exists() else 0


def _alive(pid: int) -> bool:
  return pid > 0 and Path(f"/proc/{pid}").exists()


def until(reached, seconds: float) -> None:
  """Waits until `reached()`; a limit that only a hanging test reaches."""
  deadline = time.monotonic() + seconds
  while not reached():
    assert time.monotonic() < deadline, "the cluster hangs"
    time.sleep(0.2)


@contextlib.contextmanager
def running(directory: Path) -> Iterator[TwoNodes]:
  """Runs the cluster for the block; its nodes have names that resolve."""
  hosts = HOSTS.read_text()
  _start_munge()
  cluster = TwoNodes(directory)
  if " n1 n2\n" not in hosts:
    HOSTS.write_text(f"{hosts.rstrip()}\n127.0.0.1 n1 n2\n")
  try:
    cluster.start()
    yield cluster
  finally:
    cluster.stop()
    if " n1 n2\n" not in hosts:
      HOSTS.write_text(hosts)


def _start_munge() -> None:
  """Starts munged, with a key where the machine has none."""
  probe = "munge -n 2>/dev/null | unmunge >/dev/null 2>&1"
  if subprocess.run(["bash", "-c", probe]).returncode == 0:
    return
  script = """
    set -e
    mkdir -p /run/munge /var/log/munge /var/lib/munge
    chown munge: /run/munge /var/log/munge /var/lib/munge
    if [ ! -f /etc/munge/munge.key ]; then
      (umask 077; dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1)
      chown munge: /etc/munge/munge.key
    fi
    su -s /bin/sh munge -c /usr/sbin/munged
  """
  subprocess.run(["bash", "-c", script], check=True)
  ready = lambda: subprocess.run(["bash", "-c", probe]).returncode == 0
  until(ready, 30)
