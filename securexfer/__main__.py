"""`python -m securexfer` is `securexfer`."""

from securexfer.cli import main

if __name__ == "__main__":
    main()
