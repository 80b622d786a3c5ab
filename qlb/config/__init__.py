"""Floor 3: the YAML of one daemon, checked whole, and what the other floors make of it.

>>> loaded = load(Path("configs/quickstart.yaml"))   # doctest: +SKIP
"""

from qlb.config.load import Loaded, load, load_text
from qlb.config.model import Config
from qlb.config.schema import json_schema

__all__ = ["Config", "Loaded", "json_schema", "load", "load_text"]
