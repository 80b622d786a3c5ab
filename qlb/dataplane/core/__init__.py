"""The C core's headers, and the Python modules that compile the table for it."""
