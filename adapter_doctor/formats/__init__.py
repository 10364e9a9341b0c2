"""Bytes and names to values: readers of file formats that decide nothing and touch no file system."""
