"""How one cell runs: the runner, its worker process and further processes."""
