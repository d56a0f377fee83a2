"""The specification of a run: suites, their parts, the YAML reader, validation, and cells."""
