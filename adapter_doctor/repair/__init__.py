"""Repairs as data: planned from facts, written to a copy; what proves them is the examination in `fixing.py`."""
