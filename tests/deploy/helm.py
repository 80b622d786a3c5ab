"""Helm, from its library, in a separate process: Go's runtime cannot share pytest's.

Run: python -m tests.deploy.helm lint|install CHART [VALUES]. It uses the API server of $KUBECONFIG.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import yaml

NAMESPACE = "edge"
RELEASE = "edge"


async def lint(chart: str) -> int:
    """Print a line for each message; return the number of errors."""
    import helm_sdkpy

    found: dict[str, Any] = await helm_sdkpy.Lint(helm_sdkpy.Configuration(namespace=NAMESPACE)).run(chart)
    for message in found["Messages"]:
        sys.stdout.write(f"severity {message['Severity']}: {message['Path']}\n")
    return len(found["Errors"] or ())


async def install(chart: str, values: str) -> int:
    """Install the chart; on failure print the reason and return 1."""
    import helm_sdkpy

    action = helm_sdkpy.Install(helm_sdkpy.Configuration(namespace=NAMESPACE))
    try:
        await action.run(RELEASE, chart, values=yaml.safe_load(Path(values).read_text()), wait=False, timeout=120)
    except helm_sdkpy.HelmError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run({"lint": lint, "install": install}[sys.argv[1]](*sys.argv[2:])))
