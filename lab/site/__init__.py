"""The site and the manual pages: references that are generated from the schema, from click and from the metrics.

``make docs`` writes the pages of the site into build/docs (``pages``) and builds the site from them. ``make generate``
writes the manual pages (``manual``), which are committed because the package installs them. ``keys`` and ``commands``
read what there is to describe, and ``reference`` and ``roff`` write it.
"""
