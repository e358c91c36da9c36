"""SQL: the reward by hand, queries that mean harm, copies."""

import os

import pytest
import scipy

from sophia_jax.planning import lookahead, providers, sql, sql_worker
from sophia_jax.planning.lookahead import Ending, SearchConfig
from sophia_jax.types import SophiaError

IMAGE = sql.image_of(
  "CREATE TABLE pets(id INTEGER, name TEXT, age INTEGER);"
  "INSERT INTO pets VALUES (1,'Bo',3),(2,'Ada',5),(3,'Cy',1);"
)
LIMITS = {"rows": 1000, "size": 100_000, "instructions": 2_000_000}
QUESTION = sql.Question(
  id="names",
  text="Which pets are there, from young to old?",
  gold="SELECT name FROM pets ORDER BY age",
  image=IMAGE,
)


def run(query, image=IMAGE, **limits):
  return sql_worker.run(image, query, **{**LIMITS, **limits})


@pytest.fixture(scope="module")
def database():
  with sql.Database(timeout_s=20.0, **LIMITS) as found:
    yield found


# -------------------------------------------------------------------- the reward
@pytest.mark.parametrize(
  "found, gold, reward",
  [
    ([], [], 1.0),
    (None, [], 0.0),
    ([], ["a"], 0.0),
    (["a"], ["a"], 1.0),
    (["a"], ["a", "b", "c"], 1 / 3),
    (["a", "b", "c"], ["a", "b", "c"], 1.0),
    (["c", "b", "a"], ["a", "b", "c"], -1.0),
    (["b", "a", "c"], ["a", "b", "c"], 0.33),
    (["a", "b", "x"], ["a", "b"], 0.67),
    (["a", "a"], ["a", "a", "a"], 2 / 3),
    (["x"], ["y"], 0.0),
  ],
)
def test_rewards_by_hand(found, gold, reward):
  assert sql.rows_reward(found, gold) == pytest.approx(reward)


def test_tau_ranks_the_rows_as_texts_as_the_benchmark_does():
  """Pairs of i-th rows, so a swap of two rows may cost more than one inversion."""
  found, gold = ["a", "c", "b"], ["c", "a", "b"]
  tau = scipy.stats.kendalltau([1, 3, 2], [3, 1, 2]).statistic
  assert sql.rows_reward(found, gold) == round(tau, 2) == -1


# ------------------------------------------------------------------- the queries
@pytest.mark.parametrize(
  "query",
  [
    "ATTACH DATABASE '/tmp/x.db' AS x",
    "VACUUM INTO '/tmp/x.db'",
    "PRAGMA journal_mode = WAL",
    "SELECT load_extension('/tmp/x.so')",
    "CREATE VIRTUAL TABLE f USING fts5(x)",
    "SELECT 1; DROP TABLE pets",
    "SELECT * FROM nowhere",
    "",
    "\0",
    "SELECT '\ud800'",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n",
    "SELECT zeroblob(1000000000)",
    "SELECT a.id FROM pets a, pets b, pets c, pets d, pets e, pets f, pets g",
    "SELECT " + "(" * 500 + "1" + ")" * 500,
    "SELECT '" + "x" * 30_000 + "'",
  ],
)
def test_harm_is_an_error_of_one_line(query, tmp_path):
  answer, image = run(query)
  if query:
    assert set(answer) == {"error"} and "\n" not in answer["error"]
  assert image == b""
  assert not os.path.exists("/tmp/x.db")


def test_a_query_answers_rows_or_changes_the_image():
  assert run("SELECT name, age FROM pets WHERE age > 2") == (
    {"rows": ["('Bo', 3)", "('Ada', 5)"]},
    b"",
  )
  answer, image = run("DELETE FROM pets WHERE id = 1")
  assert answer == {"rows": []}
  assert run("SELECT count(*) FROM pets", image)[0]["rows"] == ["(2,)"]
  _, image = run("CREATE TABLE more(x)")
  assert run("SELECT * FROM more", image)[0] == {"rows": []}
  assert len(run("PRAGMA table_info(pets)")[0]["rows"]) == 3


def test_an_empty_database_is_one():
  assert run("SELECT 1", b"") == ({"rows": ["(1,)"]}, b"")
  _, image = run("CREATE TABLE t(x)", b"")
  assert run("SELECT count(*) FROM t", image)[0] == {"rows": ["(0,)"]}


def test_a_process_that_is_killed_costs_one_query(database):
  assert database.run(IMAGE, "SELECT 1").rows == ("(1,)",)
  database._process.kill()
  database._process.wait()
  ran = database.run(IMAGE, "SELECT 1")
  assert ran.rows is None and "ended" in ran.error and ran.image == IMAGE
  assert database.run(IMAGE, "SELECT 2").rows == ("(2,)",)
  assert database.killed == 1


def test_a_query_that_hangs_is_ended():
  endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"
  with sql.Database(timeout_s=0.5, instructions=10**12) as database:
    ran = database.run(IMAGE, endless)
  assert ran.rows is None and "more than 0.5 s" in ran.error


# ------------------------------------------------------------------- the episode
def test_a_look_ahead_avoids_the_likelier_wrong_query(database):
  good, bad = QUESTION.gold, "SELECT name FROM pets ORDER BY age DESC"
  propose = lambda episode: [("SELEC", 0.6), (bad, 0.3), (good, 0.1)]
  episode = sql.SqlEpisode(QUESTION, database)
  value = lambda e: e.reward
  config = SearchConfig(breadth=1, depth=1, prior_weight=0.1, budget=5)
  played = lookahead.play(episode, propose, value, config)
  assert played.actions == (good,) and played.ending is Ending.SOLVED
  first = lambda episode: propose(episode)[:1]
  episode = sql.SqlEpisode(QUESTION, database)
  played = lookahead.play(episode, first, value, config)
  assert played.ending is Ending.ENDED and played.reward == 0
  assert "error" in episode.text()


def test_a_copy_does_not_touch_the_original(database):
  episode = sql.SqlEpisode(QUESTION, database)
  copy = episode.copy()
  copy.step("DELETE FROM pets")
  assert copy.step("SELECT count(*) FROM pets").reward == 0
  assert episode.step(QUESTION.gold).reward == 1 and episode.solved
  assert "count" in copy.text() and "count" not in episode.text()


def test_submit_ends_with_the_last_reward(database):
  episode = sql.SqlEpisode(QUESTION, database)
  partly = episode.step("SELECT name FROM pets WHERE age < 4 ORDER BY age")
  assert partly.reward == pytest.approx(0.67) and not partly.ended
  step = episode.step("Submit")
  assert step.ended and step.reward == pytest.approx(0.67)
  assert episode.step("SELECT 1").ended and not episode.solved


def test_a_rollout_sees_the_reward(database):
  good = lambda _: [(QUESTION.gold, 1.0)]
  episode = sql.SqlEpisode(QUESTION, database)
  assert providers.by_rollout(good)(episode) == 1
  assert episode.reward == 0


def test_a_gold_query_that_fails_is_named(database):
  broken = sql.Question(id="q7", text="?", gold="SELECT", image=IMAGE)
  with pytest.raises(SophiaError, match="question q7: its gold query fails"):
    sql.SqlEpisode(broken, database)
  with pytest.raises(SophiaError, match="database script"):
    sql.image_of("CREATE TABEL x")
