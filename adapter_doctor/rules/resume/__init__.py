"""Rules of the family `resume`."""
