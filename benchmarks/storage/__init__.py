"""The run folder on disk: cells, checkpoints, atomic writes."""
