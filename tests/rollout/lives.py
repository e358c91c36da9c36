"""A small world to sample in, and engines that do as a test says."""

import asyncio
import dataclasses
import random
import threading
import time
from contextlib import closing
from itertools import islice

from sophia_jax.rewards.pool import Verifier
from sophia_jax.rollout import roles
from sophia_jax.rollout.collect import collect
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.rollout.store import Store
from sophia_jax.rollout.world import Seat, World
from sophia_jax.types import (
  Chat,
  Completion,
  FinishReason,
  Problem,
  Sampling,
)
from tests.rollout import little

META = {"recipe": [2, 3]}
SIX = "\\boxed{6}"


def bare(groups):
  """The groups without the arrays of their prompts, which have no equality."""
  return [
    (
      group.problem,
      [
        (r.path, r.author, r.verdict, r.rewards, r.length, r.completion)
        for r in group.rollouts
      ],
    )
    for group in groups
  ]


def rounded(groups):
  """The same without the last bits of log-probabilities."""
  return [
    (
      problem,
      [
        (
          *row,
          dataclasses.replace(
            said, logps=tuple(round(p, 4) for p in said.logps)
          ),
        )
        for *row, said in rows
      ],
    )
    for problem, rows in bare(groups)
  ]


class Noted:
  """An embedded engine, and the ids of what it was asked."""

  def __init__(self, engine, seed=None):
    self.engine, self.asked = engine, []
    self.rng = seed is not None and random.Random(seed)

  @property
  def busy(self):
    return self.engine.busy

  def submit(self, request):
    self.asked.append(request.id)
    return self.engine.submit(request)

  def tick(self):
    if self.rng:  # now quick and now slow
      time.sleep(self.rng.choice([0, 0, 0.01, 0.03]))
    return self.engine.tick()

  def clear(self):
    self.engine.clear()


class Little:
  """Two tiny models, three problems with pictures, and lives in which they meet."""

  def __init__(self, directory):
    self.words = little.renderer(str(directory / "policy"), True)
    own = little.renderer(str(directory / "reasoner"), False)
    config = dataclasses.replace(little.ENGINE, length=160)
    self.policy, self.reasoner = (
      little.engine(little.model(words), words, config=config)
      for words in (self.words, own)
    )
    self.prompts = Prompts(
      caption="What do you see",
      slow_thinking="Look.",
      reasoning="{caption}\n{question}",
    )
    self.sampling = {
      "caption": Sampling(max_new_tokens=6),
      "policy": Sampling(max_new_tokens=9),
      "reasoner": Sampling(temperature=0.8, max_new_tokens=9),
    }
    self.problems = [
      Problem(
        id=f"p/{i}",
        question=f"Is it red{'?' * i}",
        answer="6",
        answer_type="number",
        images=(path,),
        difficulty=("easy", "hard")[i == 1],
      )
      for i, path in enumerate(little.pictures(directory))
    ]

  def world(self, store, verifier=None, policy=None, reasoner=None, **how):
    """Where engines answer; one without a verifier only replays."""
    engines = {
      "caption": {"": policy or self.policy},
      "policy": {"": policy or self.policy},
      "reasoner": dict.fromkeys(("easy", "hard"), reasoner or self.reasoner),
    }
    seats = roles.seats(
      self.words, self.prompts, self.sampling, engines if verifier else None
    )
    return World(store, seats, self.words, verifier, **{"seed": 5} | how)

  def life(self, directory, sample, stop=None, seed=None, **how):
    """Samples until `stop` groups; the groups and what was asked."""
    policy, reasoner = Noted(self.policy, seed), Noted(self.reasoner, seed)
    with (
      Verifier(workers=1) as verifier,
      Store(directory, META) as store,
    ):
      world = self.world(store, verifier, policy, reasoner, **how)
      with closing(collect(self.problems, sample, world)) as groups:
        found = list(islice(groups, stop))
    return found, (policy.asked, reasoner.asked)

  def replayed(self, directory, sample):
    """The groups of a store, read without engines."""
    with Store(directory, read_only=True) as store:
      return list(collect(self.problems, sample, self.world(store)))


# ------------------------------------------------------------- scripted engines
class Scripted:
  """Answers a request by what `answer` makes of its id, as a server does."""

  def __init__(self, answer=lambda name: SIX):
    self.answer, self.asked = answer, []

  async def ask(self, request):
    self.asked.append(request.id)
    return said(request, await asyncio.to_thread(self.answer, request.id))


class Stepped:
  """Answers all it was asked by the same at its next tick."""

  def __init__(self, answer=lambda name: SIX):
    self.answer, self.asked, self.inbox = answer, [], []
    self.ticks = []

  @property
  def busy(self):
    return bool(self.inbox)

  def submit(self, request):
    self.asked.append(request.id)
    self.inbox.append(request)
    return len(self.asked)

  def tick(self):
    first = len(self.asked) - len(self.inbox) + 1
    inbox, self.inbox = self.inbox, []
    self.ticks.append([request.id for request in inbox])
    return [
      (ticket, said(request, self.answer(request.id)))
      for ticket, request in enumerate(inbox, first)
    ]

  def clear(self):
    self.inbox = []


def said(request, text):
  return Completion(
    request_id=request.id,
    text=text,
    token_ids=(1,),
    logps=None,
    finish_reason=FinishReason.STOP,
  )


class Counted:
  """Words that are counted by their spaces."""

  end_id = 2

  def count(self, text):
    return len(text.split())


def seats(**engines):
  """Seats of one scripted engine each, all asked in words."""
  return {
    role: Seat(
      prompt=lambda problem, **context: Chat(text=problem.question),
      engines=engine if isinstance(engine, dict) else {"": engine},
      own=role != "reasoner",
    )
    for role, engine in engines.items()
  }


def words(count, answer_type="number", difficulty="easy"):
  """Problems in words alone."""
  return [
    Problem(
      id=f"w{i}",
      question="?",
      answer="6",
      answer_type=answer_type,
      difficulty=difficulty,
    )
    for i in range(count)
  ]


def no_thread_is_left():
  """Whether every thread of sampling ends."""
  deadline = time.monotonic() + 20
  while any("sample-" in t.name for t in threading.enumerate()):
    if time.monotonic() > deadline:
      return False
    time.sleep(0.01)
  return True


def in_background(work):
  """Runs `work` in a thread that does not keep the test."""
  threading.Thread(target=work, daemon=True).start()
