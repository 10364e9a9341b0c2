"""What only a text tells: failures of plain state dicts, and of what is done with an adapter that loads."""
