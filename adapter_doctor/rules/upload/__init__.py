"""Rules on what would be published: the model card, the files, and what must not leave the machine."""
