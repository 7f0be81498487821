"""Exit statuses of all commands."""

DONE = 0
FAILED = 1  # the command ran, and not everything went well
USAGE = 2  # it could not run: arguments, settings, or a server that is away
INTERRUPTED = 130  # Ctrl-C, as a shell counts it: 128 + SIGINT
TERMINATED = 143  # 128 + SIGTERM
