"""The admin server: read-only HTTP over TCP, and commands over a Unix socket."""

from qlb.admin.commands import Control, Incomplete, ReloadOutcome, UpgradeOutcome
from qlb.admin.server import AdminServer

__all__ = ["AdminServer", "Control", "Incomplete", "ReloadOutcome", "UpgradeOutcome"]
