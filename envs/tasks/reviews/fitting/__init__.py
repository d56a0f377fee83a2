"""How the shipped review model, judge and proxies were made and measured; not needed to play the tasks."""
