"""What is to be run: suites, their parts, the YAML reader, validation, and cells."""
