"""The voice agent's clients, pages and pictures."""
