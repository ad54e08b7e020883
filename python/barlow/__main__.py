"""`python -m barlow` is the `barlow` command."""

from barlow.cli import main

if __name__ == "__main__":
    main()
