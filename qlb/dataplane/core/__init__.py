"""The C core's headers, and the Python modules that build what it reads."""
