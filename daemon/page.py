"""Starting the pages: the owner's on the port that was asked for, else the usual one, else any; and, where it
was asked for, the one for everybody.
"""

from __future__ import annotations

import os

from atoll.daemon.config import Settings
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.storage import files
from atoll.daemon.storage.data_dir import DataDir
from atoll.web_ui.interface import Node
from atoll.web_ui.listener import PortTaken, WebServerError
from atoll.web_ui.public_server import PublicServer
from atoll.web_ui.server import DEFAULT_PORT, WebServer


async def start_page(node: Node, folder: DataDir, settings: Settings) -> WebServer:
    """The running server; its address is left in the data dir for other commands. Raises AtollError."""
    ports = [settings.api_port] if settings.api_port else [DEFAULT_PORT, 0]
    for port in ports:
        try:
            page = WebServer(
                node,
                host=settings.api_host,
                port=port,
                token=folder.token(),
                allowed_hosts=settings.api_names,
            )
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


async def start_public_page(node: Node, settings: Settings, port: int | None = None) -> PublicServer | None:
    """The running public page; None where it is not wanted. Raises AtollError.

    `port`: instead of that of the settings; 0 is any here.
    """
    if port is None and settings.public_port == 0:
        return None
    page = PublicServer(node, host=settings.public_host, port=settings.public_port if port is None else port)
    try:
        await page.start()
    except WebServerError as error:
        code = "port_taken" if isinstance(error, PortTaken) else error.code
        raise AtollError(Exit.PREFLIGHT, code, error.message, error.fix) from error
    return page
