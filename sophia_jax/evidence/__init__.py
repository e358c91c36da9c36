"""Experiments over seeds: arms that differ in one thing, compared in pairs.

An experiment is a file that is written before it is run: claim, arms, primary
measure, number of seeds, smallest effect of interest. Results are lines of JSON,
tables are computed from them.
"""
