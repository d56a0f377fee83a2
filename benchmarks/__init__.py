"""The benchmark harness: suites, cells, executors, the run folder and evaluation."""
