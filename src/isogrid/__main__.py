"""`python -m isogrid` is `isogrid`."""

from isogrid.cli import main

if __name__ == "__main__":
    main()
