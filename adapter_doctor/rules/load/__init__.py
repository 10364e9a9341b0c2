"""Rules of the family `load`."""
