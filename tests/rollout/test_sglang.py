"""The SGLang client against servers that misbehave; a real one is in tests/servers."""

import base64
import gzip
import itertools
import json
import math
import queue
import threading
import time
from pathlib import Path

import pytest

from sophia_jax.types import (
  FinishReason,
  Request,
  Role,
  SophiaError,
)
from tests.rollout.asking import ask, say
from tests.rollout.fake_server import (
  changed,
  chatted,
  cut,
  endless,
  hangs_up,
  sends,
  status,
  stuck,
)


def many(words, count):
  one = ask(words)
  for i in range(count):
    yield Request(id=str(i), prompt=one.prompt, sampling=one.sampling)


def until(condition, seconds=10.0):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.005)


# ------------------------------------------------------------ what is asked
def test_the_policy_is_asked_by_exact_ids(fake, client, words, pictures):
  wide = pictures[2]
  request = ask(
    words,
    images=(pictures[0], wide),
    temperature=0.0,
    top_p=0.9,
    top_k=7,
    seed=(1 << 62) + 5,
  )
  (completion,) = client(fake).generate([request])
  (body,) = fake.asked
  files = [base64.b64decode(text) for text in body["image_data"]]
  assert files == [Path(p).read_bytes() for p in (pictures[0], wide)]
  assert body["input_ids"] == request.prompt.token_ids.tolist()
  assert (request.prompt.roles == Role.IMAGE).sum() == 4 * (1 + 3)
  assert body["return_logprob"] is True
  assert body["logprob_start_len"] == len(request.prompt) - 1
  assert body["sampling_params"] == {
    "temperature": 0.0,
    "top_p": 0.9,
    "top_k": 7,
    "max_new_tokens": 8,
    "sampling_seed": ((1 << 62) + 5) % (1 << 31),
    "stop_token_ids": [words.end_id],
    "no_stop_trim": True,
    "skip_special_tokens": False,
  }
  assert completion.request_id == "p/0"
  assert completion.token_ids == (5, 6, words.end_id)  # not output_ids
  assert completion.text == words.decode([5, 6])
  assert completion.logps == (-0.5, -1.5, -2.5)
  assert completion.finish_reason is FinishReason.STOP


@pytest.mark.parametrize(
  ("temperature", "known"), [(0.0, True), (1.0, True), (0.7, False)]
)
def test_logps_are_those_at_temperature_1(
  fake, client, words, temperature, known
):
  request = ask(words, temperature=temperature)
  (completion,) = client(fake).generate([request])
  assert (completion.logps is not None) == known


def test_a_reasoner_is_asked_in_words(fake, client):
  fake.always = sends(chatted("<think>6 + 0</think> 6"))
  engine = client(fake, renderer=None)
  fake.models["data"][0]["id"] = "thinker"
  engine.check("thinker", 90)
  asked = [say(seed=3, top_k=2, max_new_tokens=9), say("x", system="Think.")]
  done = {c.request_id: c for c in engine.generate(asked)}
  bodies = {b["messages"][0]["role"]: b for b in fake.asked[1:]}
  body = bodies["user"]
  del body["rid"]
  assert body == {
    "model": "thinker",
    "messages": [{"role": "user", "content": "How many?"}],
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 2,
    "max_tokens": 9,
    "seed": 3,
    "separate_reasoning": False,
  }
  assert bodies["system"]["messages"] == [
    {"role": "system", "content": "Think."},
    {"role": "user", "content": "How many?"},
  ]
  assert done["x"].text == "<think>6 + 0</think> 6"
  assert done["x"].token_ids == ()
  assert done["x"].logps is None


def test_thoughts_that_a_server_takes_out_are_put_back(fake, client):
  fake.always = sends(chatted("6", reasoning_content="6 + 0"))
  (completion,) = client(fake, renderer=None).generate([say()])
  assert completion.text == "<think>\n6 + 0\n</think>\n\n6"


def test_words_go_to_the_policy_in_its_own_template(fake, client, words):
  list(client(fake).generate([say(max_new_tokens=4)]))
  expected = words.prompt("How many?").token_ids.tolist()
  assert fake.asked[0]["input_ids"] == expected


def test_half_a_character_can_be_asked(fake, client):
  list(client(fake, renderer=None).generate([say(text="a\ud800b")]))
  assert fake.asked[0]["messages"][0]["content"] == "a\ufffdb"


def test_an_image_is_read_once(fake, client, words, pictures, monkeypatch):
  from sophia_jax.rollout import sglang

  read = []
  whole = sglang.Path.read_bytes
  monkeypatch.setattr(
    sglang.Path, "read_bytes", lambda path: read.append(path) or whole(path)
  )
  asked = [ask(words, str(i), pictures[:1]) for i in range(9)]
  assert len(list(client(fake).generate(asked))) == 9
  assert len(read) == 1
  list(client(fake, image_cache_mb=0).generate(asked))
  assert len(read) == 10  # nothing is kept where there is no room


def test_a_missing_image_is_one_line(fake, client, words, pictures, tmp_path):
  gone = tmp_path / "gone.png"
  gone.write_bytes(Path(pictures[0]).read_bytes())
  request = ask(words, images=(str(gone),))
  gone.unlink()
  with pytest.raises(SophiaError, match=r"gone.png: cannot read this image"):
    list(client(fake).generate([request]))


def test_the_key_comes_from_the_environment(fake, client, words, monkeypatch):
  monkeypatch.setenv("LITTLE_KEY", "s3cret")
  list(client(fake, api_key_env="LITTLE_KEY").generate([ask(words)]))
  assert fake.headers[0]["Authorization"] == "Bearer s3cret"
  monkeypatch.delenv("LITTLE_KEY")
  with pytest.raises(SophiaError, match="LITTLE_KEY is not set"):
    client(fake, api_key_env="LITTLE_KEY")


def test_json_of_a_body_is_json(fake, client, words, pictures):
  """Nothing but plain values is sent: numpy would fail only at run time."""
  list(client(fake).generate([ask(words, images=pictures[:1])]))
  assert json.loads(json.dumps(fake.asked[0])) == fake.asked[0]


# ------------------------------------------------------------ bad answers
FAULTS = {
  "500": status(500, "Internal Server Error"),
  "503": status(503),
  "nothing": sends(b""),
  "not JSON": sends(b"<html>"),
  "half of it": sends(b'{"text": "a", "meta_in'),
  "cut off": cut,
  "hangs up": hangs_up,
  "stuck": stuck,
  "endless": endless,
  "deep": sends(b"[" * 100_000),
  "null": sends(None),
  "a list": sends([1, 2]),
  "no meta": sends({"text": "a"}),
  "no tokens": changed(output_token_logprobs=[]),
  "tokens missing": changed(output_token_logprobs=None),
  "too many tokens": changed(output_token_logprobs=[[-1.0, 5, None]] * 9),
  "odd triple": changed(output_token_logprobs=[[-1.0]]),
  "text for an id": changed(output_token_logprobs=[[-1.0, "5", None]]),
  "true for an id": changed(output_token_logprobs=[[-1.0, True, None]]),
  "huge id": changed(output_token_logprobs=[[-1.0, 1 << 40, None]]),
  "negative id": changed(output_token_logprobs=[[-1.0, -5, None]]),
  "null for a logp": changed(output_token_logprobs=[[None, 5, None]]),
  "nan for a logp": changed(output_token_logprobs=[[math.nan, 5, None]]),
  "length as text": changed(prompt_tokens="12"),
  "no reason": changed(finish_reason=None),
  "aborted": changed(finish_reason={"type": "abort"}),
  "gzip": sends(gzip.compress(b"{}")),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_bad_answer_is_asked_for_again(fake, client, words, fault):
  fake.faults = [fault]
  deadline_s = 0.5 if fault is stuck else 30.0
  (completion,) = client(fake, deadline_s=deadline_s).generate([ask(words)])
  assert completion.token_ids == (5, 6, words.end_id)
  assert len(fake.asked) == 2
  first, second = (body["rid"] for body in fake.asked)
  assert (
    fake.aborted == [first] != [second]
  )  # a request that is given up is aborted


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_but_not_for_ever(fake, client, words, fault):
  fake.always = fault
  engine = client(fake, failures=99, deadline_s=0.2 if fault is stuck else 30.0)
  with pytest.raises(SophiaError) as raised:
    list(engine.generate([ask(words)]))
  message = str(raised.value)
  assert message.startswith(
    f"request p/0 failed 4 times, at last at {fake.url}"
  )
  assert "\n" not in message
  assert len(message) < 700
  assert len(fake.asked) == 4


@pytest.mark.parametrize(
  "answer",
  [
    {"choices": []},
    {"choices": "none"},
    {"choices": [{"finish_reason": "stop"}]},
    {**chatted(""), "usage": None},
    {**chatted(None), "usage": {"completion_tokens": 0}},
    chatted(["a", "b"]),
    {"choices": [{**chatted("a")["choices"][0], "finish_reason": "abort"}]},
  ],
)
def test_a_bad_chat_is_asked_for_again(fake, client, answer):
  fake.faults = [sends(answer)]
  (completion,) = client(fake, renderer=None).generate([say()])
  assert completion.text == "Six."
  assert len(fake.asked) == 2


def test_a_turn_may_end_at_once(fake, client):
  fake.always = sends(chatted(None))
  (completion,) = client(fake, renderer=None).generate([say()])
  assert completion.text == ""


def test_little_of_an_endless_answer_is_read(fake, client, words):
  fake.faults = [endless]
  list(client(fake).generate([ask(words)]))
  assert fake.sent < 32 << 20  # the limit is 1 MB; sockets buffer some more


# -------------------------------------------------------------- refusals
@pytest.mark.parametrize(
  ("code", "text", "words_of_it"),
  [
    (400, '{"error":{"message":"input is too long"}}', "input is too long"),
    (400, '{"error":"unknown field x"}', "unknown field x"),
    (400, '{"object":"error","message":"no messages"}', "no messages"),
    (404, '{"detail":"Not Found"}', "Not Found"),
    (401, '{"error":"Unauthorized"}', "config.client.api_key_env"),
    (429, "queue is full", "config.client.concurrency"),
    (400, "x" * 10_000_000, "more than config.client.max_answer_mb"),
    (302, "elsewhere", "answered 302"),
    (400, "several\nlines", "several lines"),
  ],
)
def test_a_refusal_is_final(fake, client, words, code, text, words_of_it):
  fake.always = status(code, text)
  retries = 0 if len(text) > 1 << 20 else 3
  with pytest.raises(SophiaError) as raised:
    list(client(fake, retries=retries).generate([ask(words)]))
  message = str(raised.value)
  assert words_of_it in message
  assert "request p/0" in message
  assert fake.url in message
  assert "\n" not in message
  assert len(fake.asked) == 1


def test_prompts_of_other_lengths_are_an_error(fake, client, words):
  request = ask(words)
  fake.always = changed(prompt_tokens=36)
  with pytest.raises(SophiaError) as raised:
    list(client(fake).generate([request]))
  assert "prompt of 36 tokens" in str(raised.value)
  assert f"ours has {len(request.prompt)};" in str(raised.value)
  assert len(fake.asked) == 1


# ------------------------------------------------------- servers that are down
def test_without_any_server_it_stops_in_time(fake, client, words):
  engine = client(fake)
  fake.stop()
  begun = time.monotonic()
  with pytest.raises(SophiaError) as raised:
    list(engine.generate(many(words, 9)))
  assert "no rollout server has worked for 0.5 s" in str(raised.value)
  assert fake.url in str(raised.value)
  assert time.monotonic() - begun < 10


def test_one_of_two_may_be_dead_and_come_back(start, client, words):
  fakes = start(), start()
  dead, alive = fakes
  engine = client(*fakes)
  dead.stop()
  done = list(engine.generate(many(words, 50)))
  assert sorted(int(c.request_id) for c in done) == list(range(50))
  back = start(dead.port)
  # A dead endpoint is asked for one token before it gets work again.
  until(lambda: back.asked)
  assert back.asked[0]["sampling_params"]["max_new_tokens"] == 1
  assert len(list(engine.generate(many(words, 50)))) == 50
  assert len(back.asked) > 5
  assert len(alive.asked) > 5


def test_a_run_outlives_a_restart_of_its_only_server(start, client, words):
  fake = start()
  engine = client(fake, give_up_s=20.0)
  done = []
  for completion in engine.generate(many(words, 60)):
    done.append(completion.request_id)
    if len(done) == 20:
      fake.stop()
      threading.Timer(0.3, lambda: start(fake.port)).start()
  assert sorted(map(int, done)) == list(range(60))


def test_a_failing_endpoint_rests(start, client, words):
  good, bad = start(), start()
  bad.always = status(500)
  assert len(list(client(good, bad).generate(many(words, 200)))) == 200
  # Some at once before it was known, then a probe now and then.
  assert len(bad.asked) < 60


def test_the_least_loaded_is_asked(start, client, words):
  slow, quick = start(), start()
  slow.gate.clear()
  engine = client(slow, quick)
  completions = engine.generate(many(words, 100))
  done = list(itertools.islice(completions, 96))
  slow.gate.set()
  assert len(done + list(completions)) == 100
  assert len(slow.asked) == 4
  assert slow.most == 4


# ----------------------------------------------------- drawing and handing out
def test_requests_are_drawn_as_capacity_frees(fake, client, words):
  drawn = []

  def source():
    for request in many(words, 100):
      drawn.append(request.id)
      yield request

  fake.gate.clear()
  completions = client(fake).generate(source())
  assert not drawn
  first = threading.Thread(target=lambda: drawn.append(next(completions)))
  first.start()
  until(lambda: fake.running == 4)
  time.sleep(0.05)
  assert len(drawn) == 5  # one waits for a place
  fake.gate.set()
  first.join()
  # The others are not taken: as many wait again, and nothing more is drawn.
  time.sleep(0.2)
  assert len(drawn) - 1 <= 1 + 2 * 5
  assert len(list(completions)) == 99
  assert fake.most == 4


def test_many_requests_in_bounded_memory(fake, client, words):
  alive = most = 0
  lock = threading.Lock()

  def source():
    nonlocal alive, most
    for request in many(words, 2000):
      with lock:
        alive += 1
        most = max(most, alive)
      yield request

  seen = set()
  for completion in client(fake, concurrency=32).generate(source()):
    with lock:
      alive -= 1
    seen.add(completion.request_id)
  assert len(seen) == 2000
  assert len(fake.asked) == 2000
  assert most <= 2 * 40 + 1
  assert fake.most <= 32


def test_a_source_that_blocks_holds_nothing_back(fake, client, words):
  waiting = queue.Queue()
  waiting.put(ask(words, "first"))
  completions = client(fake).generate(iter(waiting.get, None))
  assert next(completions).request_id == "first"
  waiting.put(ask(words, "second"))
  assert next(completions).request_id == "second"
  waiting.put(None)
  assert list(completions) == []


def test_an_error_in_drawing_surfaces(fake, client, words):
  def source():
    yield from many(words, 3)
    until(lambda: len(fake.asked) == 3 and not fake.running)
    time.sleep(0.05)
    raise SophiaError("line 4: not a problem")

  done = []
  with pytest.raises(SophiaError, match="line 4"):
    for completion in client(fake).generate(source()):
      done.append(completion.request_id)
  assert sorted(done) == ["0", "1", "2"]


def test_closing_early_aborts_what_is_under_way(fake, client, words):
  engine = client(fake)
  completions = engine.generate(many(words, 100))
  next(completions)
  fake.gate.clear()
  until(lambda: fake.running == 4)
  under_way = {body["rid"] for body in fake.asked[-4:]}
  completions.close()
  assert set(fake.aborted) == under_way
  fake.gate.set()
  asked = len(fake.asked)
  time.sleep(0.1)
  assert len(fake.asked) == asked
  # The engine is none the worse for it.
  assert len(list(engine.generate(many(words, 9)))) == 9


def test_an_engine_may_be_closed_first(fake, client, words):
  engine = client(fake)
  completions = engine.generate(many(words, 100))
  next(completions)
  engine.close()
  completions.close()


def test_an_engine_serves_several_at_once(fake, client, words):
  engine = client(fake)
  one, two = (engine.generate(many(words, 30)) for _ in range(2))
  done = [c.request_id for pair in zip(one, two) for c in pair]
  assert sorted(map(int, done)) == sorted([*range(30), *range(30)])
  assert fake.most <= 4
