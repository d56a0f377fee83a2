"""The commands of the command line, one file each: ``add(commands)`` declares it, ``execute(options)`` does it.

A command returns an exit code. What is heavy is imported when it runs, never when it is declared.
"""

DONE, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""
