"""Questions about a small library, and a proposer that is often wrong.

The proposer stands in for a model that writes SQL: among its candidates are the
right query, those of other questions, and one that fails. InterCode's questions
are read from its package, where that is installed (`planning.intercode`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from sophia_jax.planning.lookahead import Environment, Proposals
from sophia_jax.planning.sql import Question, SqlEpisode, image_of

SCHEMA = (
  "books(id, title, author, year, copies); members(id, name, joined); "
  "loans(book, member, day, returned)"
)
_SCRIPT = """
CREATE TABLE books(id INTEGER PRIMARY KEY, title TEXT, author TEXT, year INTEGER,
  copies INTEGER);
CREATE TABLE members(id INTEGER PRIMARY KEY, name TEXT, joined INTEGER);
CREATE TABLE loans(book INTEGER, member INTEGER, day INTEGER, returned INTEGER);
INSERT INTO books VALUES (1,'Harbour','Lind',1998,3),(2,'The Mill','Osei',2004,1),
  (3,'Glass','Lind',2011,2),(4,'Orchard','Rossi',1987,4),(5,'Tides','Osei',2019,1),
  (6,'North','Haas',2011,5);
INSERT INTO members VALUES (1,'Ines',2015),(2,'Tom',2018),(3,'Ruth',2018),
  (4,'Malik',2021);
INSERT INTO loans VALUES (1,1,3,1),(1,2,5,0),(3,1,9,1),(5,3,11,0),(6,3,12,1),
  (2,1,15,1),(6,2,20,0),(1,3,21,0);
"""
_QUESTIONS = (
  ("How many books are there?", "SELECT count(*) FROM books"),
  (
    "List the titles from the oldest book to the newest.",
    "SELECT title FROM books ORDER BY year, title",
  ),
  ("Which books are by Lind?", "SELECT title FROM books WHERE author = 'Lind'"),
  (
    "Who has borrowed Harbour?",
    "SELECT m.name FROM members m JOIN loans l ON l.member = m.id JOIN books b "
    "ON b.id = l.book WHERE b.title = 'Harbour'",
  ),
  (
    "How many loans has each member had? Sort by name.",
    "SELECT m.name, count(l.book) FROM members m LEFT JOIN loans l ON "
    "l.member = m.id GROUP BY m.id ORDER BY m.name",
  ),
  (
    "Which books have never been borrowed?",
    "SELECT title FROM books WHERE id NOT IN (SELECT book FROM loans)",
  ),
  (
    "Which titles are on loan now, by the day they were borrowed?",
    "SELECT b.title FROM books b JOIN loans l ON l.book = b.id WHERE "
    "l.returned = 0 ORDER BY l.day",
  ),
  (
    "Which author has written the most books? Give the first by name.",
    "SELECT author FROM books GROUP BY author ORDER BY count(*) DESC, author "
    "LIMIT 1",
  ),
  (
    "How many copies are there of books since 2000?",
    "SELECT sum(copies) FROM books WHERE year >= 2000",
  ),
  ("Who joined in 2018?", "SELECT name FROM members WHERE joined = 2018"),
  (
    "What is the mean year of the books?",
    "SELECT avg(year) FROM books",
  ),
  (
    "Which members have borrowed more than two books?",
    "SELECT m.name FROM members m JOIN loans l ON l.member = m.id GROUP BY m.id "
    "HAVING count(*) > 2",
  ),
)  # fmt: skip


def questions() -> list[Question]:
  """Returns the questions about the library."""
  image = image_of(_SCRIPT)
  return [
    Question(
      id=f"library-{number}", text=text, gold=gold, image=image, schema=SCHEMA
    )
    for number, (text, gold) in enumerate(_QUESTIONS, start=1)
  ]


def noisy(
  everything: Sequence[Question], candidates: int, right: float, seed: int
) -> Proposals:
  """Returns proposals of a simulated model.

  Each turn of each question has its own `candidates` queries in a random order
  with falling probabilities: the right one with probability `right`, one that
  fails, and those of other questions about the same database.

  Args:
    right: probability that the right query is among the candidates of a turn.
  """

  def propose(environment: Environment) -> list[tuple[str, float]]:
    assert isinstance(environment, SqlEpisode)
    question = environment.question
    rng = random.Random(f"{seed}/{question.id}/{environment.text()}")
    others = [
      other.gold
      for other in everything
      if other.image == question.image and other.gold != question.gold
    ]
    found = rng.sample(others, min(len(others), max(candidates - 2, 0)))
    found.append(question.gold.replace("SELECT", "SELEC", 1))
    if rng.random() < right:
      found.append(question.gold)
    rng.shuffle(found)
    total = sum(range(1, len(found) + 1))
    return [
      (sql, (len(found) - place) / total) for place, sql in enumerate(found)
    ]

  return propose
