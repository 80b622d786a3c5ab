"""Floor 3: the YAML of one daemon, checked as a whole, and its translation for the floors below.

A file becomes a Config in these steps (load.py runs them):

1. ``load``: read the file: a regular file, UTF-8, at most 64 MiB.
2. ``tree``: parse YAML into nodes with line and column. Every scalar remains text.
3. ``validate``: rename misspelt keys, report unknown ones, then read each field of ``model`` and ``sections``, the
   frozen dataclasses that ``fields`` describes. The kinds in ``scalars`` and ``names`` convert the texts.
4. ``partial``: read every valid field again, with its position. This also works if other fields are invalid.
5. ``rules``, ``source_rules``: check the rules between fields on that.
6. ``key_files``: read the keys and check who can read and change their files. Then the Config is complete.
   ``credentials`` finds those that systemd passes to the daemon.
7. ``load``: reject kubeconfigs that others can change and, for a reload, changes that need a restart.
8. ``advice``: add warnings about valid but doubtful settings.

``problems`` collects the findings of steps 2 to 6, so that one run reports them all. Other modules use the Config:
``build`` creates CID parameters, backends and a snapshot, ``server_config`` the configuration of one backend,
``changes`` the difference between two configurations. ``schema`` describes the YAML for editors, and
``backends_file`` reads the files that discovery watches, by the same steps.

>>> loaded = load(Path("configs/quickstart.yaml"))   # doctest: +SKIP
"""

from qlb.config.load import Loaded, load, load_text
from qlb.config.model import Config
from qlb.config.schema import json_schema

__all__ = ["Config", "Loaded", "json_schema", "load", "load_text"]
