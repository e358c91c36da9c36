"""launch.serve without a server: refusals, sizes, environments, shutdown."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sophia_jax.models import DecoderConfig
from sophia_jax.servers import environments, supervise
from sophia_jax.servers.backends import (
  BACKENDS,
  Packages,
  ServeSpec,
  access,
  by_name,
  sglang_jax,
)
from sophia_jax.servers.backends.base import cache
from sophia_jax.serving import guard
from sophia_jax.types import SophiaError
from tests.launch.commands import ROOT, export
from tests.rollout import little

CONFIG = "--config=tests/servers/tiny_config.py"


@pytest.fixture(scope="module")
def serve(command):
  return lambda *flags: command("launch.serve", *flags)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
  """policy and reasoner, as a workdir of tiny_config has them."""
  directory = tmp_path_factory.mktemp("workdir")
  for name, vision in (("policy", True), ("reasoner", False)):
    export(directory / name, directory / f"{name}-words", vision)
  return directory


# ------------------------------------------------------------------------- mistakes
def test_help_is_a_success(serve):
  done = serve("--help")
  assert done.returncode == 0
  assert "--api_key_env" in done.stdout


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--role=policy"], "--port must be given"),
    (["--role=policy", "--port=1"], "give --workdir or --model"),
    (["--role=policy", "--port=1", "--model=/nowhere"], "no such checkpoint"),
    (
      ["--role=reasoner", "--port=1", "--workdir=/tmp", "--reasoner=eazy"],
      "did you mean 'easy'",
    ),
  ],
)
def test_a_mistake_is_one_line(serve, flags, words):
  done = serve(CONFIG, *flags)
  assert done.returncode == 1
  assert words in done.stderr
  assert len(done.stderr.splitlines()) == 1


def test_a_key_that_is_not_set(serve, checkpoints):
  done = serve(
    *(CONFIG, "--role=policy", "--port=1", f"--workdir={checkpoints}"),
    "--api_key_env=NO_SUCH_KEY",
  )
  assert (
    done.stderr
    == "error: --api_key_env=NO_SUCH_KEY: not set; export it first\n"
  )


def test_a_port_that_is_taken(checkpoints):
  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    spec = supervise.spec_of(
      tiny_config(), "policy", checkpoints / "policy", port=port
    )
    with pytest.raises(SophiaError, match=f"127.0.0.1:{port}: Address already"):
      supervise.Server(spec, "sglang_jax", checkpoints / "log")


def test_each_role_gets_its_kind_of_model(checkpoints):
  config = tiny_config()
  with pytest.raises(SophiaError, match="a text model; a policy is"):
    supervise.spec_of(config, "policy", checkpoints / "reasoner", port=1)
  with pytest.raises(SophiaError, match="it sees images; a reasoner is"):
    supervise.spec_of(config, "reasoner", checkpoints / "policy", port=1)
  config.images.tile_size = 448
  with pytest.raises(SophiaError, match="tiles of 28 pixels"):
    supervise.spec_of(config, "policy", checkpoints / "policy", port=1)


def tiny_config():
  from tests.servers import tiny_config

  return tiny_config.get_config()


# ---------------------------------------------------------------------------- sizes
def test_a_config_without_a_section_gives_sizes(checkpoints, monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  config = tiny_config()
  del config["serve"]
  config.engine.slots = 256
  spec = supervise.spec_of(config, "policy", checkpoints / "policy", port=5)
  assert spec.host == "127.0.0.1"
  assert spec.max_running == supervise.MOST_ON_CPU
  assert spec.context_length >= config.engine.length + supervise.ROOM
  assert spec.dtype == "float32"
  assert (spec.platform, spec.tp) == ("cpu", 1)
  assert spec.image.max_tiles == little.IMAGES.max_tiles


@pytest.mark.parametrize("context", [200, 4096, 40000])
@pytest.mark.parametrize("heads", [4, 28])
def test_attention_on_a_cpu_fits_memory(heads, context):
  decoder = DecoderConfig(
    vocab=9, width=64, depth=2, heads=heads, kv_heads=2, mlp=64, head_dim=64
  )
  spec = ServeSpec(
    model=Path(), role="policy", port=1, context_length=context, max_running=64
  )
  sizes = sglang_jax.cpu_sizes(spec, decoder)
  assert 1 <= sizes.running <= 64
  assert sizes.running <= sizes.chunk
  assert sizes.context >= context
  logits = sizes.chunk * heads * sizes.pool * 4
  assert 4 * logits <= sglang_jax.LOGITS_BYTES or sizes.running == 1


def test_the_command_line_follows_the_spec(checkpoints):
  spec = ServeSpec(
    model=checkpoints / "policy",
    role="policy",
    port=31999,
    api_key="secret",
    dtype="float32",
    extra=("--log-level", "debug"),
  )
  backend = by_name("sglang_jax")
  command = backend.command(Path("python"), spec)
  assert command[-2:] == ["--log-level", "debug"]
  assert "31999" in command
  assert "127.0.0.1" in command
  # A command line is there for all to read.
  assert "secret" not in command
  assert access(spec)[guard.KEY_VARIABLE] == "secret"


def test_a_misspelt_backend():
  with pytest.raises(SophiaError, match="did you mean 'sglang_jax'"):
    by_name("sglang_jex")
  assert set(BACKENDS) == {"sglang_jax", "sglang"}


# --------------------------------------------------------------------- environments
class Bare:
  """A backend of no packages: an environment in a second."""

  name = "bare"
  pythons = (f"{sys.version_info[0]}.{sys.version_info[1]}",)

  def __init__(self, file: Path):
    self.file = file
    self.finished = 0

  def packages(self, platform):
    return (Packages(self.file, ("--no-index",)),)

  def finish_install(self, python, platform):
    self.finished += 1


@pytest.fixture
def bare(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  file = tmp_path / "requirements.txt"
  file.write_text("# nothing\n")
  return Bare(file)


def test_an_environment_is_made_once_and_again_if_half_made(bare):
  python = environments.python_of(bare, "cpu")
  assert subprocess.run([python, "-c", ""], check=False).returncode == 0
  assert environments.python_of(bare, "cpu") == python
  assert bare.finished == 1
  (python.parents[1] / environments.STAMP).unlink()
  assert environments.python_of(bare, "cpu") == python
  assert bare.finished == 2
  bare.file.write_text("# something else\n")
  assert environments.python_of(bare, "cpu") != python


def test_two_makers_make_it_once(bare):
  with concurrent.futures.ThreadPoolExecutor(3) as pool:
    made = [pool.submit(environments.python_of, bare, "cpu") for _ in range(3)]
  assert len({future.result() for future in made}) == 1
  assert bare.finished == 1


def test_a_failed_install_names_its_log_and_is_no_environment(bare):
  bare.file.write_text("no-such-package-of-ours==1.0\n")
  with pytest.raises(SophiaError, match=r"bare-cpu-.*\.log: -m pip install"):
    environments.python_of(bare, "cpu")
  assert not list(cache().glob(f"servers/*/{environments.STAMP}"))


def test_a_python_that_is_not_there(tmp_path, monkeypatch):
  monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
  with pytest.raises(SophiaError, match=r"needs Python 3\.99, and none"):
    environments.find_python(("3.99",), "bare")
  # A shim that only says which version to choose is none.
  shim = tmp_path / "python3.99"
  shim.write_text(
    "#!/bin/sh\necho 'pyenv: python3.99: command not found'\nexit 127"
  )
  shim.chmod(0o755)
  monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
  with pytest.raises(SophiaError, match="none was found on PATH"):
    environments.find_python(("3.99",), "bare")


# ------------------------------------------------------------------------- watching
FAMILY = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("up", flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys
watch = subprocess.Popen(
  [sys.executable, "-m", "sophia_jax.hosts.watch", sys.executable, "-c", sys.argv[1]],
  stdin=subprocess.PIPE,
)
watch.wait()
"""


@pytest.mark.parametrize("victim", ["parent", "watcher", "command"])
def test_no_process_is_left_after_any_kill(victim):
  parent = subprocess.Popen(
    [sys.executable, "-c", PARENT, FAMILY], cwd=ROOT, stdout=subprocess.PIPE
  )
  assert parent.stdout is not None
  assert parent.stdout.readline() == b"up\n"
  watcher = psutil.Process(parent.pid).children()[0]
  command = watcher.children()[0]
  grandchild = command.children()[0]
  family = {"parent": parent, "watcher": watcher, "command": command}
  family[victim].send_signal(signal.SIGKILL)
  expected = [watcher, command]
  if victim == "watcher":  # the kernel ends only the watcher's own child
    grandchild.kill()
  else:
    expected.append(grandchild)
  _, alive = psutil.wait_procs(expected, timeout=30)
  parent.kill()
  parent.wait()
  assert not alive


def test_the_watcher_passes_the_exit_code_on():
  command = [sys.executable, "-c", "exit(7)"]
  watch = subprocess.Popen(
    [sys.executable, "-m", "sophia_jax.hosts.watch", *command],
    cwd=ROOT,
    stdin=subprocess.PIPE,
  )
  assert watch.wait() == 7
