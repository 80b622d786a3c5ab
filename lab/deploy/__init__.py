"""The programs and servers that read what deploy/ has."""
