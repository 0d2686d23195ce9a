"""``python -m ml4ad`` is the command ``ml4ad``."""

from ml4ad.cli import main

if __name__ == "__main__":
    main()
