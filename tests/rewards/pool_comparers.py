"""Comparers that misbehave: test_pool has a worker load them by name."""

import ctypes
import os
import time


def naughty(kind: str, gold: str, answer: str, tolerance: list) -> str:
  """Does what `answer` says."""
  if answer == r"\hang":
    time.sleep(600)
  while answer == r"\spin":
    pass
  if answer == r"\die":
    os._exit(3)
  if answer == r"\crash":
    ctypes.string_at(0)
  if answer == r"\swallow":
    return "right" if bytearray(4 * 2**30) else "wrong"
  if answer.startswith(r"\slow"):
    time.sleep(0.05)
  return "right" if gold == answer.removeprefix(r"\slow") else "wrong"


def generous(kind: str, gold: str, answer: str, tolerance: list) -> str:
  """A verifier that is broken."""
  return "right"


def never_starts(*task) -> str:
  os._exit(1)


def evaluates(kind: str, gold: str, answer: str, tolerance: list) -> str:
  """A library that runs what it is given."""
  return eval(gold) if "'" in gold else "wrong"
