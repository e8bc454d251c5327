"""The study: specification, tasks, store, run, tables, claims."""
