"""The admin server: HTTP to look at the daemon over TCP, and to steer it over a Unix socket."""

from qlb.admin.commands import Control, Incomplete, ReloadOutcome, UpgradeOutcome
from qlb.admin.server import AdminServer

__all__ = ["AdminServer", "Control", "Incomplete", "ReloadOutcome", "UpgradeOutcome"]
