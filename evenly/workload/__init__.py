"""Workload files: reading, making and running them, and the report at the end."""
