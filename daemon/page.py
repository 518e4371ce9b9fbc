"""Starting page and API on a port: the one that was asked for, else the usual one, else any."""

from __future__ import annotations

import os

from atoll.daemon.config import Settings
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.storage import files
from atoll.daemon.storage.data_dir import DataDir
from atoll.web_ui.interface import Node
from atoll.web_ui.server import DEFAULT_PORT, PortTaken, WebServer, WebServerError


async def start_page(node: Node, folder: DataDir, settings: Settings) -> WebServer:
    """The running server; its address is left in the data dir for other commands. Raises AtollError."""
    ports = [settings.api_port] if settings.api_port else [DEFAULT_PORT, 0]
    for port in ports:
        try:
            page = WebServer(node, host=settings.api_host, port=port, token=folder.token())
            await page.start()
        except PortTaken as error:
            if port != ports[-1]:
                continue
            raise AtollError(Exit.PREFLIGHT, "port_taken", error.message, error.fix) from error
        except WebServerError as error:
            raise AtollError(Exit.PREFLIGHT, error.code, error.message, error.fix) from error
        files.write_json(folder.api, {"url": page.url, "pid": os.getpid()})
        return page
    raise AssertionError("the last port either works or raises")
