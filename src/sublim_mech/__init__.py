"""Mechanistic analysis of fine-tuned students: where does the behaviour they acquired live?"""
