"""Small environments for methods whose policy acts in several turns.

Rules are pure functions of immutable states, so that an episode is repeated
from its answers, and a planner looks ahead without a copy.
"""
