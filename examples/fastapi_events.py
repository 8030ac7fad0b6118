#!/usr/bin/env python3
"""Serve the output of jobs as server-sent events with FastAPI (needs: pip install fastapi uvicorn).

    python3 examples/fastapi_events.py [PORT]
    curl -N 'http://127.0.0.1:8000/events?job_id=backup'

In a browser:

    const events = new EventSource("/events?job_id=backup");
    events.addEventListener("stdout", event => log.append(JSON.parse(event.data).text));
    events.addEventListener("status", event => {
        if (!["queued", "starting", "running", "stopping"].includes(JSON.parse(event.data).status)) events.close();
    });

A browser that was cut off says in Last-Event-ID what it has, so it gets every byte once. There is no access
control here: put the two routes behind what your application has, or see live_page.py.

Each reader occupies a thread of the pool that Starlette runs plain generators in (40 by default).
"""
import os
import sys

import uvicorn
from fastapi import FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from nodejobs import Jobs, SchemaError, UnknownJob  # noqa: E402

app = FastAPI()
jobs = Jobs()


class EventStream(StreamingResponse):
    """Frames as they are made. When the reader has left, their generator is closed, and with it the logs."""

    media_type = "text/event-stream"

    def __init__(self, frames):
        # X-Accel-Buffering: nginx would collect frames otherwise
        super().__init__(frames, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self.frames = frames

    async def __call__(self, scope, receive, send):
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.frames.close()


@app.get("/jobs")
def list_jobs():
    return list(jobs.list_status().values())


@app.get("/events")
def events(job_id: str, last_event_id: str = Header("")):
    try:
        # Without a heartbeat a reader that has left would keep its thread for as long as the job is silent.
        return EventStream(jobs.sse(job_id, from_beginning=True, heartbeat_interval=5.0, last_event_id=last_event_id))
    except UnknownJob as error:
        raise HTTPException(404, str(error))
    except SchemaError as error:
        raise HTTPException(400, str(error))


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
