"""Run folders as tidy pandas frames."""
