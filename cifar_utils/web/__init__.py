"""A page and an API that say what is on pictures."""
