"""Importers and decontamination: what makes the files that `data` reads."""
