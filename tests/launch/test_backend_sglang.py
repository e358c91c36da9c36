"""Command lines of SGLang (PyTorch); the servers are in tests/servers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from sophia_jax.checkpoints import Format, read_config, save_params
from sophia_jax.data.images import ImageConfig
from sophia_jax.servers import backends
from sophia_jax.servers.backends import Backend, ServeSpec, access
from sophia_jax.serving import guard
from sophia_jax.types import SophiaError
from tests.rollout import little

PYTHON = Path("/somewhere/bin/python")


@pytest.fixture
def sglang() -> Backend:
  return backends.by_name("sglang")


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
  directory = tmp_path_factory.mktemp("policy")
  words = little.renderer(str(directory / "words"), True)
  model = little.model(words)
  for format in Format:
    save_params(
      little.params(model),
      model.cfg,
      directory / format.value,
      directory / "words",
      format=format,
    )
  return directory


@pytest.fixture
def spec(directory) -> ServeSpec:
  return ServeSpec(
    model=directory / Format.INTERNVL_CHAT.value, role="policy", port=30000
  )


def value(command: list[str], flag: str) -> str:
  return command[command.index(flag) + 1]


def test_it_listens_at_its_address_only(sglang, spec):
  command = sglang.command(PYTHON, spec)
  assert command[:3] == [str(PYTHON), "-m", "sophia_jax.serving.sglang.main"]
  assert value(command, "--host") == "127.0.0.1"
  assert value(command, "--port") == "30000"


def test_pickles_and_code_of_a_checkpoint_are_never_run(sglang, spec):
  command = sglang.command(PYTHON, spec)
  assert value(command, "--load-format") == "safetensors"
  assert "--trust-remote-code" not in command


def test_the_key_is_no_flag(sglang, spec):
  spec = dataclasses.replace(spec, api_key="for friends")
  assert "for friends" not in " ".join(sglang.command(PYTHON, spec))
  assert access(spec)[guard.KEY_VARIABLE] == "for friends"
  assert not access(dataclasses.replace(spec, api_key=None))


def test_images_are_cut_as_the_prompts_were_rendered(sglang, spec):
  image = ImageConfig(tile_size=28, max_tiles=4, thumbnail=False)
  environ = sglang.environ(dataclasses.replace(spec, image=image))
  assert ImageConfig(**json.loads(environ["SOPHIA_IMAGES"])) == image


def test_a_policy_stays_within_its_positions(sglang, spec):
  most = read_config(spec.model).decoder.max_positions
  long = dataclasses.replace(spec, context_length=most + 8)
  assert value(sglang.command(PYTHON, long), "--context-length") == str(most)
  assert value(sglang.command(PYTHON, spec), "--context-length") == "4096"


def test_a_cpu_holds_every_request_whole_if_memory_allows(sglang, spec):
  command = sglang.command(PYTHON, spec)
  assert value(command, "--max-total-tokens") == str(32 * 4096)
  assert value(command, "--device") == "cpu"
  on_gpu = dataclasses.replace(spec, platform="gpu", tp=4)
  command = sglang.command(PYTHON, on_gpu)
  assert "--max-total-tokens" not in command and "--device" not in command
  assert value(command, "--tp-size") == "4"


def test_flags_of_the_user_come_last(sglang, spec):
  spec = dataclasses.replace(spec, extra=("--chunked-prefill-size", "64"))
  assert sglang.command(PYTHON, spec)[-2:] == ["--chunked-prefill-size", "64"]


def test_another_format_is_refused_with_the_remedy(sglang, spec, directory):
  spec = dataclasses.replace(spec, model=directory / Format.HF.value)
  with pytest.raises(SophiaError, match=r"launch.convert .*internvl_chat"):
    sglang.command(PYTHON, spec)


def test_a_tpu_is_refused(sglang, spec):
  with pytest.raises(SophiaError, match="--backend=sglang_jax"):
    sglang.command(PYTHON, dataclasses.replace(spec, platform="tpu"))


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_every_list_of_packages_is_there_and_pins_sglang(sglang, platform):
  texts = [p.file.read_text("utf-8") for p in sglang.packages(platform)]
  assert sum(text.count("sglang==") for text in texts) == 1
  assert "pillow" in "".join(texts)  # 13 would cut other pixels
