"""Rules of the family `reach`."""
