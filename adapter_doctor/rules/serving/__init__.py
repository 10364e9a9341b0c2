"""Rules of the family `serving`: what the engines asked for with `--for` will do."""
