"""Texts in which libraries say that something failed: read them within bounds, and recognise what they say."""
