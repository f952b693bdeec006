"""`python -m tokenferry`: the command line."""

from tokenferry.cli import main

if __name__ == "__main__":
    main()
