"""What a browser sees: the page, the REST and SSE API that every node serves, and a thin client for scripts.

This room knows the interface of a node (`interface.py`) and nothing of the daemon behind it. The package
itself imports nothing, so that `atoll.web_ui.client` stays cheap for commands such as `atoll status`.
"""
