"""Words of strangers, made fit to be shown: cut, and without what could move a terminal's cursor."""

MAX_CHARACTERS = 200


def plain(text: str, limit: int = MAX_CHARACTERS) -> str:
    """At most `limit` characters of `text`, unprintable ones replaced."""
    return "".join(c if c.isprintable() else "?" for c in text[:limit])
