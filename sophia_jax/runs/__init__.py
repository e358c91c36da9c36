"""Runs on a workdir: stages, engines, training, evaluation, report."""
