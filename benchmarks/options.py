"""Command line of a benchmark module: ``--help`` prints the module's docstring."""

import argparse


def command_line(module: str, docstring: str | None) -> argparse.ArgumentParser:
    """Return the argument parser of ``python -m MODULE``. docstring: the module's own."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}", description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter
    )
