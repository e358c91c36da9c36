"""Weight updates of fleets that misbehave; real servers are in tests/servers."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from sophia_jax.rollout.weights import ServedWeights
from sophia_jax.types import Completion, FinishReason, SophiaError
from tests.rollout import asking
from tests.rollout.fake_server import Fake

STEPS = ["/pause_generation", "/update_weights_from_disk"]
STEPS.append("/continue_generation")


def save(params, directory: Path) -> None:
  directory.mkdir(parents=True, exist_ok=True)
  (directory / "params").write_text(str(params))


@pytest.fixture
def fleet(start):
  fakes = [start(), start()]
  for fake in fakes:
    fake.version = "0"
  return fakes


@pytest.fixture
def weights(client, fleet, words, tmp_path):
  engine = client(*fleet)
  probe = asking.ask(words, "probe", temperature=0.0)
  return ServedWeights([engine], tmp_path / "weights", save, probe)


def answer(words, fleet, logp=-0.5):
  ids = fleet[0].ids
  logps = [logp, *(-0.5 - i for i in range(1, len(ids)))]
  return Completion(
    request_id="probe",
    text="",
    token_ids=tuple(ids),
    logps=tuple(logps),
    finish_reason=FinishReason.STOP,
  )


def test_every_server_pauses_loads_and_resumes(weights, fleet, words):
  for version in (1, 2, 5):
    loaded = weights.load(f"params {version}", version, answer(words, fleet))
    assert min(loaded.export, loaded.update, loaded.probe) >= 0
    assert weights.version == version
  for fake in fleet:
    assert [path for path, _ in fake.updates] == STEPS * 3
    assert fake.updates[0][1] == {"mode": "retract"}
    sent = [body for path, body in fake.updates if path == STEPS[1]]
    assert [body["weight_version"] for body in sent] == ["1", "2", "5"]
    used = [Path(body["model_path"]) for body in sent]
    assert used[0] == used[2] != used[1]
    assert (used[2] / "params").read_text() == "params 5"
    assert (used[1] / "params").read_text() == "params 2"
    assert not fake.paused


def test_a_server_that_refuses_is_named_and_goes_on(weights, fleet):
  weights.load("first", 1)
  fleet[1].refuses = "holds NaN"
  with pytest.raises(SophiaError, match="version 2") as error:
    weights.load("second", 2)
  assert fleet[1].url in str(error.value) and fleet[0].url not in str(error)
  assert "holds NaN" in str(error.value) and "\n" not in str(error.value)
  assert fleet[1].version == "1" and not fleet[1].paused
  assert weights.version == 1
  fleet[1].refuses = ""
  weights.load("second", 2)
  assert [fake.version for fake in fleet] == ["2", "2"]


def test_a_probe_that_differs_takes_the_update_back(weights, fleet, words):
  weights.load("first", 1, answer(words, fleet, -0.45))  # within the tolerance
  with pytest.raises(
    SophiaError, match="differs from the trainer's at token 0"
  ):
    weights.load("second", 2, answer(words, fleet, -1.5))
  assert [fake.version for fake in fleet] == ["1", "1"]
  assert weights.version == 1


def test_a_busy_server_answers_the_probe_later(client, fleet, words, tmp_path):
  engine = client(fleet[0])
  probe = asking.ask(words, "probe", temperature=0.0)
  weights = ServedWeights([engine], tmp_path, save, probe, probe_s=0.05)
  fleet[0].gate.clear()  # all of its places are taken
  wrong = answer(words, fleet, -1.5)
  weights.load("first", 1, wrong)
  assert weights.version == 1
  weights.load("second", 2, wrong)  # the probe of the first is dropped
  (task,) = weights._probing.values()
  fleet[0].gate.set()
  deadline = time.monotonic() + 20
  while not task.done() and time.monotonic() < deadline:
    time.sleep(0.01)
  with pytest.raises(SophiaError, match=r"version 2 .* differs") as error:
    weights.load("third", 3)
  assert fleet[0].url in str(error.value)
  assert fleet[0].version == "2"
  weights.load("third", 3)
  assert fleet[0].version == "3"


def test_a_server_that_lies_about_its_version_is_found(weights, fleet):
  fleet[0].always = lambda fake, _: set_version(fake, "7")
  with pytest.raises(SophiaError, match=r"serves version \[7\]"):
    weights.load("first", 1)


async def set_version(fake: Fake, version: str):
  fake.version = version


def test_an_update_waits_for_a_server_that_starts_again(
  client, start, words, tmp_path
):
  fake = start()
  port = fake.port
  engine = client(fake, give_up_s=60.0)
  probe = asking.ask(words, "probe", temperature=0.0)
  weights = ServedWeights([engine], tmp_path, save, probe)
  fake.stop()
  later = threading.Timer(0.3, lambda: start(port))
  later.start()
  weights.load("first", 1)
  later.join()


def test_a_server_that_never_comes_back_is_named(weights, fleet):
  fleet[0].stop()
  with pytest.raises(SophiaError, match="ClientConnectorError") as error:
    weights.load("first", 1)
  assert fleet[0].url in str(error.value)
  assert fleet[1].version == "1"


def test_a_server_that_was_started_again_gets_the_weights(
  client, start, words, tmp_path
):
  fake = start()
  fake.version = "0"
  engine = client(fake, give_up_s=60.0)
  probe = asking.ask(words, "probe", temperature=0.0)
  weights = ServedWeights([engine], tmp_path, save, probe)
  weights.load("first", 3)
  fake.version = "0"  # it begins with the weights of its command line
  completion = asyncio.run(engine.ask(asking.ask(words)))
  assert completion.versions == ((3, len(fake.ids)),)
  assert completion.version == 3


def test_versions_of_a_request_in_flight_are_kept(client, fake, words):
  spans = [
    {"version": "1", "start": 0, "end": 1},
    {"version": "2", "start": 1, "end": 3},
  ]
  fake.version = "2"
  good = fake._good
  fake._good = lambda body: {
    **(found := good(body)),
    "meta_info": {**found["meta_info"], "weight_versions": spans},
  }
  completion = asyncio.run(client(fake).ask(asking.ask(words)))
  assert completion.versions == ((1, 1), (2, 2))
  assert completion.version == 1


@pytest.mark.parametrize(
  "spans",
  [
    [{"version": "1", "start": 0, "end": 2}],
    [{"version": "1", "start": 1, "end": 3}],
    [{"version": "1", "start": 0, "end": 3.0}],
    [{"version": "1", "start": 0, "end": -1}],
    "1",
  ],
  ids=str,
)
def test_versions_that_do_not_add_up_are_not_taken(client, fake, words, spans):
  good = fake._good
  fake._good = lambda body: {
    **(found := good(body)),
    "meta_info": {**found["meta_info"], "weight_versions": spans},
  }
  with pytest.raises(SophiaError, match=r"weight_versions|no end"):
    asyncio.run(client(fake).ask(asking.ask(words)))


def test_a_version_that_is_no_number_is_none(client, fake, words):
  fake.version = "default"
  assert asyncio.run(client(fake).ask(asking.ask(words))).versions == ()


def test_versions_count_from_one(weights, fleet):
  with pytest.raises(ValueError, match="count from 1"):
    weights.load("none", 0)
  assert not fleet[0].updates
