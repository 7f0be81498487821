"""`python -m freddy_tasks`: the same as the command `freddy-tasks`."""

from .cli import main

if __name__ == "__main__":
    main()
