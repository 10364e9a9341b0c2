"""Reports as text of one format or another: one file a format, imported on demand, deciding nothing."""
