"""Questions: the library's, and InterCode's from a dump in miniature."""

import pytest

from sophia_jax.planning import intercode, sql, sql_tasks

DUMP = r"""
CREATE USER 'admin'@'%' IDENTIFIED BY 'admin';
CREATE DATABASE  IF NOT EXISTS `pets_1` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;
USE `pets_1`;
DROP TABLE IF EXISTS `pets`;
CREATE TABLE `pets` (
  `id` int NOT NULL AUTO_INCREMENT,
  `name` varchar(9) COLLATE utf8mb4_general_ci DEFAULT NULL,
  `owner` int DEFAULT NULL,
  PRIMARY KEY (`id`),
  KEY `owner` (`owner`),
  CONSTRAINT `pets_ibfk` FOREIGN KEY (`owner`) REFERENCES `owners` (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=3 DEFAULT CHARSET=utf8mb4;
INSERT INTO `pets` VALUES (1,'O\'Bo',2),(2,'a\\b',3);
CREATE TABLE `odd` (
  `x` nonsense(((
) ENGINE=InnoDB;
USE `empty`;
"""
QUERIES = (
  "query,gold,db\n"
  "Which pets?,SELECT name FROM pets ORDER BY id,pets_1\n"
  "Which odd ones?,SELECT * FROM odd,pets_1\n"
  "Which pets of 9?,SELECT name FROM pets WHERE owner = 9,pets_1\n"
  "Where?,SELECT 1 FROM nowhere,missing\n"
)


@pytest.fixture(scope="module")
def database():
  with sql.Database() as found:
    yield found


def test_a_dump_becomes_databases(database, tmp_path):
  (tmp_path / "spider_dev.sql").write_text(DUMP, encoding="utf-8")
  (tmp_path / "sql_queries.csv").write_text(QUERIES, encoding="utf-8")
  (question,) = intercode.questions(database, tmp_path)
  assert question.id == "intercode-1"
  assert question.schema == "pets(id, name, owner)"
  rows = database.run(question.image, question.gold).rows
  assert rows == ('("O\'Bo",)', "('a\\\\b',)")


def test_every_question_of_the_library_has_its_answer(database):
  everything = sql_tasks.questions()
  assert len({question.text for question in everything}) == 12
  for question in everything:
    episode = sql.SqlEpisode(question, database)
    assert episode.step(question.gold).reward == 1, question.id


def test_the_simulated_proposer_is_as_often_right_as_it_says(database):
  everything = sql_tasks.questions()
  episodes = [sql.SqlEpisode(question, database) for question in everything]
  for right in (0.0, 1.0):
    propose = sql_tasks.noisy(everything, 4, right, seed=0)
    for episode in episodes:
      found = dict(propose(episode))
      assert propose(episode) == propose(episode)
      assert len(found) == 3 + right
      assert sum(found.values()) == pytest.approx(1)
      assert (episode.question.gold in found) == (right == 1)
      ranked = [*found.values()]
      assert ranked == sorted(ranked, reverse=True)
