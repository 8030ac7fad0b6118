#!/usr/bin/env python3
"""Follow a job of another machine, through a server that sends what `Jobs.sse` yields (see fastapi_events.py).

    python3 sse_client.py 'http://127.0.0.1:8000/events?job_id=build'

It prints what the job writes, as it comes, and ends with it. From Python:

    from sse_client import subscribe
    for event in subscribe("http://127.0.0.1:8000/events?job_id=build"):
        print(event.type, event.text or event.status)

Copy it beside nodejobs.py.
"""
import http.client
import json
import os
import sys
import time
import urllib.request

sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from nodejobs import JobEvent  # noqa: E402

ENDED = ("finished", "failed", "stopped", "failed_start", "lost")
ATTEMPTS = 5  # in a row that may be refused, once there was a connection
LONGEST_PAUSE = 5.0  # seconds


def subscribe(url, last_event_id=None, headers=None, timeout=60.0):
    """Yield the events of a job until its end; connect again where the connection breaks.

    `timeout`: seconds without a byte, after which it connects again. It pauses before, the longer (up to 5 s) the more
    connections in a row brought no event.
    Raises OSError (urllib.error.URLError) if it cannot connect at all, and what the server's refusal is.
    """
    refused = 0 if last_event_id else ATTEMPTS  # the first connection has one attempt
    empty = 0
    while True:
        request = urllib.request.Request(url, headers=dict(headers or {}, Accept="text/event-stream"))
        if last_event_id:
            request.add_header("Last-Event-ID", last_event_id)
        try:
            empty += 1
            with urllib.request.urlopen(request, timeout=timeout) as stream:
                refused = 0
                for event in events_of(stream):
                    last_event_id, empty = event.id, 0
                    yield event
                    if event.status in ENDED:
                        return
        except (OSError, ValueError, http.client.HTTPException) as error:
            refused += 1
            answered = isinstance(error, ValueError) or hasattr(error, "code")
            if answered or refused > ATTEMPTS:  # what the server answers so, it will answer again
                raise
        time.sleep(min(0.1 * 2 ** min(empty, 9), LONGEST_PAUSE))


def events_of(stream):
    """Yield the whole events of one connection; one that breaks off is none."""
    text = b""
    for line in stream:
        if line.startswith(b"data:"):
            text = line[5:]
        elif text and not line.strip():
            yield JobEvent(json.loads(text.decode()), trim=True)
            text = b""


def main(url):
    status = None
    for event in subscribe(url):
        output = sys.stderr if event.type == "stderr" else sys.stdout
        if event.type in ("stdout", "stderr"):
            output.write(event.text)
            output.flush()
        status = event.status or status
    print(status, file=sys.stderr)
    return 0 if status == "finished" else 1


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
