"""Rules of the family `tensors`."""
