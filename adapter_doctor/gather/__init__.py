"""Artifacts to facts: read what a source has, and never raise for what is wrong with it."""
