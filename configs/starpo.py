"""StarPO-S on starts of an environment, with the settings of RAGEN's paper.

Paper:     arXiv 2504.20073: 8 starts of 16 episodes a round, at most 5 turns and
           10 actions, the quarter of the starts whose returns differ most, one
           update of its 32 episodes (without a filter there are four), turns of
           400 tokens in a context of 3,600, bounds 0.2 and 0.28, entropy 0.001.
           Its policy is Qwen2.5-0.5B-Instruct; this one is any policy of
           config.policy.path. The learning rate is the code's, 1e-6.
Data:      starts and held-out starts: python -m sophia_jax.envs sokoban
           W/data --size=6 (bandit, frozen_lake)
Run:       python -m launch.run --config=configs/starpo.py --workdir=W \\
             --config.policy.path=/models/InternVL3-8B-hf \\
             --config.data.problems=data/sokoban.jsonl \\
             --config.stages.starpo_s.trials=data/sokoban_heldout.jsonl \\
             --config.data.heldout=/data/heldout.jsonl
           PPO's flavour: --config.stages.starpo_s.advantage=gae (or bilevel)
Hardware:  one node of 8 H100 for the update, servers beside it
Expect:    not run at this size; configs/digits/starpo.py runs on two cores
"""

from ml_collections import ConfigDict

from configs import policy_8b

TURNS = (
  "You play a game in turns. Each turn you see the state of the game. Think "
  "first, then choose one or more actions, separated by ||, in this form: "
  "<think>your thoughts</think><answer>action || action</answer>"
)


def get_config() -> ConfigDict:
  c = policy_8b.run_of(
    "starpo_s",
    n=16,
    rounds=200,
    groups=8,
    minibatches=1,
    context=3200,
    train={"length": 4096},
  )
  c.prompts.slow_thinking = TURNS
  c.answering.max_new_tokens = 400
  c.eval.update(temperature=0.5, top_p=1.0)
  return c
