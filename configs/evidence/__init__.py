"""Configs that only experiments use."""
