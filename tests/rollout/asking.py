"""Requests of the client tests, and a client configuration without waits."""

from sophia_jax.types import Chat, Request, Sampling

QUICK = {
  "concurrency": 4,
  "deadline_s": 30.0,
  "ready_s": 0.2,
  "retries": 3,
  "backoff_s": 0.01,
  "max_backoff_s": 0.05,
  "failures": 2,
  "give_up_s": 0.5,
  "max_answer_mb": 1,
}


def ask(words, name="p/0", images=(), **how):
  how = {"max_new_tokens": 8} | how
  prompt = words.prompt("What do you see", images)
  return Request(id=name, prompt=prompt, sampling=Sampling(**how))


def say(name="p/0/0", text="How many?", system=None, **how):
  chat = Chat(text=text, system=system)
  return Request(id=name, prompt=chat, sampling=Sampling(**how))
