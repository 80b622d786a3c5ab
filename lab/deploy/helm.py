"""Helm, from its library, in a separate process: Go's runtime cannot share pytest's.

Run: python -m lab.deploy.helm. Each line of stdin is a JSON list: lint KUBECONFIG CHART, or install KUBECONFIG CHART
VALUES. Each line of stdout is a JSON list: exit code and output. One process serves many tests, because loading the
library takes most of the time of a command.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import yaml

NAMESPACE = "edge"
RELEASE = "edge"


async def lint(kubeconfig: str, chart: str) -> tuple[int, str]:
    """Return the number of errors, and a line for each message."""
    import helm_sdkpy

    configuration = helm_sdkpy.Configuration(namespace=NAMESPACE, kubeconfig=kubeconfig)
    found: dict[str, Any] = await helm_sdkpy.Lint(configuration).run(chart)
    lines = [f"severity {message['Severity']}: {message['Path']}\n" for message in found["Messages"]]
    return len(found["Errors"] or ()), "".join(lines)


async def install(kubeconfig: str, chart: str, values: str) -> tuple[int, str]:
    """Install the chart; return 1 and the reason if Helm rejects it."""
    import helm_sdkpy

    action = helm_sdkpy.Install(helm_sdkpy.Configuration(namespace=NAMESPACE, kubeconfig=kubeconfig))
    try:
        await action.run(RELEASE, chart, values=yaml.safe_load(Path(values).read_text()), wait=False, timeout=120)
    except helm_sdkpy.HelmError as error:
        return 1, str(error)
    return 0, ""


COMMANDS: Final[dict[str, Callable[..., Coroutine[None, None, tuple[int, str]]]]] = {"lint": lint, "install": install}


def serve() -> None:
    """Answer the commands on stdin until its end."""
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        answer = asyncio.run(COMMANDS[command](*arguments))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
