"""How the CLI talks to a running daemon: typed JSON lines over a Unix socket beside the vault.

``messages`` is what can be said, ``server`` the daemon's end (trio), ``client`` the CLI's (blocking, no trio, so that
``megafs status`` starts fast). One connection carries one request: a line from the client, then any number of progress
lines, then one line that is the answer or a failure. Nothing here knows what a daemon does.
"""
