"""``python -m qlb`` is ``qlb``."""

from qlb.cli import main

if __name__ == "__main__":
    main()
