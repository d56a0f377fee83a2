"""Who plays whom: suites, cells, the runner, executors, the store and evaluation."""
