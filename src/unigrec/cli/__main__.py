"""`python -m unigrec.cli`."""

from unigrec.cli import main

if __name__ == "__main__":
    main()
