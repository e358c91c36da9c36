"""Runs on two cores in minutes: every method in the world of handwritten digits."""
