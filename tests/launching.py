"""What a test starts in place of an interpreter: it has ``forking`` run the program, and ends as that does.

It is read at each start, so it has as little of the standard library as it can.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
LENGTH_BYTES = 4


def launch(address: str, *words: str) -> int:
    """Run a program to its end; give its exit code, or die of the signal that it died of."""
    folder = os.getcwd()  # noqa: PTH109 - pathlib would cost more than all else here
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)
    said = {"words": words, "folder": folder, "environment": dict(os.environ), "largest_file": largest}
    order = json.dumps(said).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [len(order).to_bytes(LENGTH_BYTES, "big")], [0, 1, 2])
        server.sendall(order)
        for number in PASSED_ON:
            signal.signal(number, lambda number, _frame: server.sendall(bytes([number])))
        answer = b""
        while len(answer) < LENGTH_BYTES:
            piece = server.recv(LENGTH_BYTES - len(answer))
            if not piece:
                return 1
            answer += piece
    code = int.from_bytes(answer, "big", signed=True)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(launch(*sys.argv[1:]))
