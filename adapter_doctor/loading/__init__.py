"""The load: ``child.py`` runs it with torch, transformers and peft; ``process.py`` starts, feeds and outlives the child."""
