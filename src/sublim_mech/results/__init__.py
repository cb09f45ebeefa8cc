"""Scores: labelled effects with their record, their tables, pictures and files. No torch here."""
