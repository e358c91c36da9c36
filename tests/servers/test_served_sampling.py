"""Sampling from two real servers, each of which is killed, and so is the sampler.

The test counts: nothing lost, nothing doubled, nothing generated twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from sophia_jax.data.problems import load_problems
from sophia_jax.files import write_jsonl
from sophia_jax.rollout.records import Answer, Graded, decode
from sophia_jax.rollout.store import Store
from sophia_jax.runs.run import Run
from sophia_jax.servers.supervise import (
  Server,
  free_port,
  serve_config,
  spec_of,
)
from tests.rollout import little
from tests.servers import sampling_config
from tests.servers.served import ROOT

pytestmark = pytest.mark.servers

PROBLEMS, K, N = 12, 2, 3
TEXTS = PROBLEMS * K * (1 + N)
CONFIG = "--config=tests/servers/sampling_config.py"
LIMIT_S = 600


class Scene:
  """A workdir, a server of each role, and samplers that ask them."""

  def __init__(self, workdir):
    self.workdir = workdir
    self.run = Run(sampling_config.get_config(), str(workdir))
    self.servers: dict[str, Server] = {}
    self.ports = {role: free_port() for role in ("policy", "reasoner")}

  def serve(self, role, wait=True):
    """Starts the role's server, each time on the same port."""
    spec = spec_of(
      self.run.config, role, self.workdir / role, port=self.ports[role]
    )
    how = serve_config(self.run.config)
    log = self.workdir / f"{role}-{len(list(self.workdir.glob('*.log')))}.log"
    self.servers[role] = server = Server(spec, how.backend, log)
    if wait:
      server.wait_ready(how.start_s)

  def kill(self, role):
    """SIGKILL to the server and all of its processes."""
    self.signal(role, signal.SIGKILL)
    self.servers.pop(role).stop()

  def signal(self, role, what):
    """To all processes of the server, which sophia_jax.hosts.watch has started."""
    watch = self.servers[role]._process.pid
    children = Path(f"/proc/{watch}/task/{watch}/children").read_text()
    os.killpg(int(children), what)

  def flags(self, **client):
    urls = {r: f"http://127.0.0.1:{port}" for r, port in self.ports.items()}
    return [
      CONFIG,
      f"--workdir={self.workdir}",
      f"--config.policy.urls={urls['policy']}",
      f"--config.reasoners.easy.urls={urls['reasoner']}",
      *(f"--config.client.{key}={value}" for key, value in client.items()),
    ]

  def sampler(self, **client):
    return subprocess.Popen(
      [sys.executable, "-m", "launch.sample", *self.flags(**client)],
      cwd=ROOT,
      env={**os.environ, "JAX_PLATFORMS": "cpu"},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def records(self):
    """All whole records that were ever written."""
    segment = self.workdir / "trajectories" / "0.jsonl"
    lines = segment.read_bytes().splitlines(True) if segment.exists() else []
    return [r for r in map(decode, lines) if r is not None]

  def texts(self):
    return [
      (r.problem_id, r.path) for r in self.records() if isinstance(r, Answer)
    ]

  def until(self, sampler, texts):
    """Waits until so many texts are written."""
    deadline = time.monotonic() + LIMIT_S
    while len(self.texts()) < texts:
      if sampler.poll() is not None or time.monotonic() > deadline:
        sampler.kill()
        pytest.fail("".join(sampler.communicate()))
      time.sleep(0.02)


@pytest.fixture(scope="module")
def scene(tmp_path_factory, policy, reasoner):
  workdir = tmp_path_factory.mktemp("sampling")
  for role, model in (("policy", policy), ("reasoner", reasoner)):
    shutil.copytree(model.directory / role, workdir / role)
  pictures = little.pictures(workdir)
  write_jsonl(
    workdir / "problems.jsonl",
    (
      {
        "id": f"p{i}",
        "question": "red ink" + " on paper" * (i % 4),
        "answer": "6",
        "images": [pictures[i % 3]],
      }
      for i in range(PROBLEMS)
    ),
  )
  scene = Scene(workdir)
  with contextlib.ExitStack() as stack:
    stack.callback(lambda: [s.stop() for s in scene.servers.values()])
    scene.serve("policy", wait=False)
    scene.serve("reasoner")
    scene.servers["policy"].wait_ready(LIMIT_S)
    yield scene


def empty(workdir):
  shutil.rmtree(workdir / "trajectories", ignore_errors=True)
  (workdir / "stages.json").unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def nothing_sampled(scene):
  empty(scene.workdir)


def assert_all_is_there_once(scene):
  texts = Counter(scene.texts())
  assert len(texts) == TEXTS and set(texts.values()) == {1}
  graded = Counter(
    (r.problem_id, r.path) for r in scene.records() if isinstance(r, Graded)
  )
  assert len(graded) == PROBLEMS * K * N and set(graded.values()) == {1}
  problems = load_problems(scene.workdir / "problems.jsonl")
  store = Store(scene.workdir / "trajectories", read_only=True)
  assert all(map(store.complete, problems)) and len(problems) == PROBLEMS
  assert "sophia/sample" in json.loads(
    (scene.workdir / "stages.json").read_text()
  )


def killed_in_the_middle(scene):
  """Kills policy, reasoner and sampler while answers are missing."""
  sampler = scene.sampler(give_up_s=LIMIT_S)
  scene.until(sampler, TEXTS // 6)
  scene.kill("policy")
  scene.serve("policy")
  scene.until(sampler, TEXTS // 3)
  scene.kill("reasoner")
  scene.serve("reasoner")
  scene.until(sampler, TEXTS // 2)
  sampler.kill()
  sampler.communicate()
  return len(scene.texts()) < TEXTS


def test_everybody_is_killed_in_the_middle(scene):
  # A sampler may end before the kill, where this process had to wait for a core.
  for _ in range(5):
    if killed_in_the_middle(scene):
      break
    empty(scene.workdir)
  assert 0 < len(scene.texts()) < TEXTS
  second = scene.sampler()
  _, err = second.communicate(timeout=LIMIT_S)
  assert second.returncode == 0, err
  assert "sampled " in err
  assert_all_is_there_once(scene)
  # Each has another seed, in words as in ids.
  said = {
    r.completion.text
    for r in scene.records()
    if isinstance(r, Answer) and r.role == "reasoner"
  }
  assert len(said) > 0.9 * PROBLEMS * K * N


def test_a_stuck_server_is_waited_for(scene):
  sampler = scene.sampler(deadline_s=20, give_up_s=LIMIT_S)
  scene.until(sampler, TEXTS // 4)
  scene.signal("reasoner", signal.SIGSTOP)
  time.sleep(8)
  scene.signal("reasoner", signal.SIGCONT)
  _, err = sampler.communicate(timeout=LIMIT_S)
  assert sampler.returncode == 0, err
  assert_all_is_there_once(scene)


def stopped_with_its_reasoner(scene):
  sampler = scene.sampler(deadline_s=5, give_up_s=10, retries=1)
  scene.until(sampler, TEXTS // 4)
  scene.signal("reasoner", signal.SIGSTOP)
  out, err = sampler.communicate(timeout=LIMIT_S)
  scene.signal("reasoner", signal.SIGCONT)
  return sampler.returncode, out, err


def test_or_the_run_stops_with_a_clear_line_and_goes_on_later(scene):
  for _ in range(5):  # as above
    code, out, err = stopped_with_its_reasoner(scene)
    if code:
      break
    empty(scene.workdir)
  assert code == 1 and not out
  assert "Traceback" not in err
  last = err.splitlines()[-1]
  assert last.startswith("error: ")
  assert f"127.0.0.1:{scene.ports['reasoner']}" in last
  assert TEXTS // 4 <= len(scene.texts()) < TEXTS
  again = scene.sampler(deadline_s=120)
  _, err = again.communicate(timeout=LIMIT_S)
  assert again.returncode == 0, err
  assert_all_is_there_once(scene)
