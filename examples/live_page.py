#!/usr/bin/env python3
"""Show the jobs of a store on a live web page: what runs, what it prints, and a button that stops it.

    python3 examples/live_page.py [--db DIR] [--port 8321] [--bind 127.0.0.1] [--name HOST]...

Open the URL that it prints. From another machine, without opening a port to anybody:

    ssh -N -L 8321:127.0.0.1:8321 HOST

Who may do what:
- It listens on loopback only. But on loopback every user of the machine can knock, and a store is for its
  owner's eyes: nothing but the empty page is given without the token. The token is the part of the URL after
  the "#", which a browser never sends, so that no log, proxy or Referer can hold it; the page's script puts it
  into a header, and gets a cookie for reading. To stop a job takes the token itself: a cookie would also come
  with a request that a foreign page makes.
- A request must name us in its Host header. So no foreign name that is made to lead here (DNS rebinding) gets
  at anything. With `--bind`, say by `--name` how others call this machine; and put TLS in front.
- Ids, commands and output are data of strangers. They are only ever shown as text, and should that fail once,
  the content security policy lets no script run but ours.
"""
import argparse
import contextlib
import errno
import hmac
import http.server
import json
import os
import re
import secrets
import shlex
import socket
import socketserver
import sys
import time
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from nodejobs import Jobs, NodejobsError, SchemaError, UnknownJob  # noqa: E402

NEWEST = 200         # jobs that are shown
PERIOD = 0.5         # seconds between looks at the list; more where a look is dear
HEARTBEAT = 5.0      # seconds until a silent stream says that it lives

HEADERS = [
    ("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                                "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
]

HTML = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>nodejobs</title>
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E\
%3Cpath fill='%232a7de1' d='M1 0l6 4-6 4z'/%3E%3C/svg%3E">
<link rel="stylesheet" href="page.css">
<script src="page.js" defer></script>
<header>
  <h1>nodejobs</h1>
  <span id="summary"></span>
  <span id="notice" role="status"></span><noscript>This page needs JavaScript.</noscript>
  <input id="filter" type="search" placeholder="filter" aria-label="show only jobs with this text" autocomplete="off">
</header>
<main>
  <nav id="jobs" aria-label="jobs"></nav>
  <section aria-label="job" id="job" hidden>
    <div id="head">
      <h2 id="name"></h2><span id="state"></span>
      <button id="stop" hidden>Stop</button>
    </div>
    <p id="command"></p>
    <p id="facts"></p>
    <pre id="log" tabindex="0" aria-label="output"></pre>
  </section>
  <p id="hint">Choose a job to see what it prints.</p>
</main>
"""

CSS = """\
:root { --back: #f6f7f9; --front: #fff; --text: #1c2330; --dim: #667085; --line: #e2e6ec; --accent: #2a7de1;
  --queued: #667085;
  --starting: #2a7de1; --running: #2a7de1; --stopping: #b7791f; --finished: #2f9e5b; --failed: #d64545;
  --failed_start: #d64545; --stopped: #b7791f; --lost: #8e59c7; --unknown: #667085; }
@media (prefers-color-scheme: dark) { :root { --back: #12161d; --front: #1a202a; --text: #dfe5ee; --dim: #8e9aad;
  --line: #2b3442; --accent: #5aa2f5;
  --queued: #8e9aad; --starting: #5aa2f5; --running: #5aa2f5; --stopping: #e0a84a;
  --finished: #55c583; --failed: #f07178; --failed_start: #f07178; --stopped: #e0a84a; --lost: #b58ae8;
  --unknown: #8e9aad; } }
* { box-sizing: border-box; margin: 0; }
html, body { height: 100%; }
body { display: flex; flex-direction: column; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: .3em 1em; padding: .6em 1em;
  background: var(--front); border-bottom: 1px solid var(--line); }
h1 { font-size: 1.05em; }
#summary, #facts, #hint { color: var(--dim); }
#notice { color: var(--failed); margin-left: auto; }
input, button { font: inherit; color: inherit; background: var(--front); border: 1px solid var(--line);
  border-radius: 6px; padding: .25em .7em; }
input { width: 14em; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: -1px; }
main { flex: 1; min-height: 0; display: flex; }
nav { width: 24em; overflow-y: auto; border-right: 1px solid var(--line); padding: .5em; }
nav button { display: grid; grid-template-columns: auto 1fr auto; gap: 0 .6em; width: 100%; padding: .5em .6em;
  border-color: transparent; background: none; text-align: left; cursor: pointer; }
nav button:hover { background: var(--front); }
nav button[aria-current=true] { background: var(--front); border-color: var(--accent); }
nav .id, nav .line { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
nav .id { font-weight: 600; }
nav .line { grid-column: 2 / 4; font: 12px/1.4 ui-monospace, monospace; color: var(--dim); }
.dot { width: .65em; height: .65em; margin-top: .45em; border-radius: 50%; background: currentColor; }
.dot.queued { background: none; border: .14em solid; }
.dot.running { animation: pulse 1.6s ease-in-out infinite; }
@keyframes pulse { 50% { opacity: .35; } }
@media (prefers-reduced-motion: reduce) { .dot.running { animation: none; } }
.time { color: var(--dim); font-variant-numeric: tabular-nums; }
.queued { color: var(--queued); }
.starting { color: var(--starting); } .running { color: var(--running); } .stopping { color: var(--stopping); }
.finished { color: var(--finished); } .failed { color: var(--failed); } .stopped { color: var(--stopped); }
.failed_start { color: var(--failed_start); } .lost { color: var(--lost); } .unknown { color: var(--unknown); }
section { flex: 1; min-width: 0; display: flex; flex-direction: column; gap: .4em; padding: 1em; }
[hidden] { display: none !important; }
#head { display: flex; align-items: center; gap: .8em; }
h2 { font-size: 1.25em; overflow-wrap: anywhere; }
#state { font-weight: 600; white-space: nowrap; }
#stop { margin-left: auto; border-color: var(--failed); color: var(--failed); cursor: pointer; white-space: nowrap; }
#stop.sure { background: var(--failed); color: var(--front); }
#command { font: 13px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; max-height: 5.6em; overflow-y: auto; }
#log { flex: 1; min-height: 8em; overflow: auto; padding: .8em 1em; background: var(--front);
  border: 1px solid var(--line); border-radius: 8px; font: 13px/1.5 ui-monospace, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
#log .stderr { color: var(--failed); }
#log .note { color: var(--dim); font-style: italic; user-select: none; }
#log .mark { display: block; font-size: 12px; }
.raw { font-size: 0; unicode-bidi: isolate; }
.raw::before { content: attr(data-shown); font-size: 13px; opacity: .55; }
#hint { flex: 1; padding: 3em 1em; text-align: center; }
@media (max-width: 50em) { main { flex-direction: column; } nav { width: auto; max-height: 35%; border: 0; }
  section { border-top: 1px solid var(--line); } }
"""

JS = r"""
"use strict";
const at = id => document.getElementById(id);
const LOG_LIMIT = 2000000;  // characters that the page keeps; the files have all
const ACTIVE = ["queued", "starting", "running", "stopping"];
const asked = new URLSearchParams(location.hash.slice(1));
let token = asked.get("token") || sessionStorage.getItem("token");
let chosen = asked.get("job"), rows = new Map(), buttons = new Map(), received = 0;
let list = null, output = null, followed = null, length = 0, sure = 0;
let past = null;  // while what a job has printed so far comes: its first piece, and the kind of the newest one
sessionStorage.setItem("token", token || "");

// Show text that a stranger wrote. What has no shape, moves the cursor or turns the line around is shown as its
// escape; the character itself stays in the text, so that what is copied is what was written.
const ODD = "\\x7f-\\x9f\\xad\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\ud800-\\udfff";
const RAW = new RegExp("([\\0-\\x1f" + ODD + "])", "u");
const LOG_RAW = new RegExp("([\\0-\\x08\\x0b\\x0c\\x0e-\\x1f" + ODD + "]|\\r(?!\\n))", "u");
function show(element, text, raw) {
  String(text).split(raw || RAW).forEach((part, index) => {
    if (!part) return;
    if (index % 2 == 0) return element.append(part);
    const span = document.createElement("span"), code = part.codePointAt(0);
    span.className = "raw";
    span.dataset.shown = {10: "\\n", 13: "\\r", 9: "\\t"}[code]
      || (code < 256 ? "\\x" + code.toString(16).padStart(2, "0") : "\\u" + code.toString(16).padStart(4, "0"));
    span.append(part);
    element.append(span);
  });
  return element;
}
function set(element, text, name) {
  element.replaceChildren();
  if (name !== undefined) element.className = name;
  return show(element, text);
}
function make(name) {
  const element = document.createElement("span");
  element.className = name;
  return element;
}
function notice(text) { set(at("notice"), text); }

function seconds(row) {
  return row.duration === null ? null : row.duration + (row.active ? (performance.now() - received) / 1000 : 0);
}
function time(row) {
  const all = seconds(row), two = number => String(Math.floor(number)).padStart(2, "0");
  if (all === null) return "";
  if (all < 60) return row.active ? Math.floor(all) + "s" : all.toFixed(1) + "s";
  if (all < 3600) return Math.floor(all / 60) + "m" + two(all % 60) + "s";
  if (all < 86400) return Math.floor(all / 3600) + "h" + two(all % 3600 / 60) + "m";
  return Math.floor(all / 86400) + "d" + two(all % 86400 / 3600) + "h";
}

function runningOf(all) { return all.filter(row => row.active && row.status != "queued").length; }

function draw() {
  const wanted = at("filter").value.toLowerCase(), shown = [];
  for (const row of rows.values()) {
    if (wanted && !(row.id + " " + row.status + " " + row.command).toLowerCase().includes(wanted)) continue;
    let button = buttons.get(row.key);
    if (!button) {
      buttons.set(row.key, button = document.createElement("button"));
      button.append(make("dot"), make("id"), make("time"), make("line"));
      button.addEventListener("click", () => choose(row.key));
    }
    const [dot, id, clock, line] = button.children, text = JSON.stringify(row);
    if (button.drawn !== text) {
      button.drawn = text;
      dot.className = "dot " + row.status;
      set(id, row.id);
      set(line, row.command);
      button.title = row.status;
    }
    const timed = row.status == "finished" || row.active && row.status != "queued";
    clock.textContent = timed ? time(row) : row.status.replace("_", " ");
    clock.className = "time " + (timed ? "" : row.status);
    button.setAttribute("aria-current", row.key === chosen);
    shown.push(button);
  }
  // Only what moved is moved: a button keeps the focus that it has.
  shown.forEach((button, index) => {
    if (at("jobs").children[index] !== button) at("jobs").insertBefore(button, at("jobs").children[index] || null);
  });
  while (at("jobs").children.length > shown.length) at("jobs").lastChild.remove();
  for (const key of buttons.keys()) if (!rows.has(key)) buttons.delete(key);

  const running = runningOf([...rows.values()]);
  document.title = (running ? running + " running - " : "") + "nodejobs";
  drawJob();
}

function drawJob() {
  const row = rows.get(chosen);
  at("job").hidden = !row;
  at("hint").hidden = !!row;
  if (!row) return;
  set(at("name"), row.id);
  set(at("state"), row.status.replace("_", " ") + (row.suspended ? ", suspended" : ""), row.status);
  set(at("command"), row.command);
  const end = row.signal || (row.exit_code === null ? "" : "exit code " + row.exit_code);
  const waits = row.status != "queued" ? "" : row.waits_for && row.waits_for.length
    ? "waits for " + row.waits_for.join(", ") : row.position ? "number " + row.position + " in " + row.queue : "";
  set(at("facts"), ["run " + row.run, waits, row.started_at && new Date(row.started_at).toLocaleString(), time(row),
                    row.error || end].filter(Boolean).join(" \u00b7 "));
  at("stop").hidden = !row.active || !token;
  const run = row.key + " " + row.run + " " + row.started_at;
  if (followed !== run) {  // chosen just now, or run again
    followed = run;
    follow(row.key);
  }
}

function choose(key) {
  chosen = key;
  asked.delete("token");
  asked.set("job", key);
  history.replaceState(null, "", "#" + asked);
  calm();
  draw();
}

function note(text) { at("log").append(set(make("note"), text)); }
function mark(text) { return set(make("note mark"), text); }
function follow(key) {
  if (output) output.close();
  at("log").replaceChildren();
  length = 0;
  const mine = output = new EventSource("follow?id=" + key);
  // A browser that was cut off comes back by itself, and says in Last-Event-ID what it has: it gets every byte once.
  for (const kind of ["stdout", "stderr"])
    mine.addEventListener(kind, event => write(kind, JSON.parse(event.data).text));
  mine.addEventListener("open", () => past = {first: null, kind: null, mixed: false});
  mine.addEventListener("heartbeat", () => {
    if (past && past.mixed) at("log").append(mark("from here on, as it comes:"));
    past = null;
  });
  mine.addEventListener("problem", event => { mine.close(); note("\n" + JSON.parse(event.data)); });
  mine.addEventListener("status", event => {
    if (ACTIVE.includes(JSON.parse(event.data).status)) return;
    mine.close();  // else it would come back for more
    if (!at("log").textContent) note("It printed nothing.");
  });
}
function write(kind, text) {
  const log = at("log"), below = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const piece = show(make(kind), text, LOG_RAW);
  if (past) {  // two files: nobody knows how their lines went together
    past.first = past.first || piece;
    if (past.kind && past.kind != kind) {
      if (!past.mixed) past.first.before(
        mark("stdout and stderr have a file each, so their common order is not known; --merge keeps it"),
        mark(past.kind + " so far:"));
      log.append(mark(kind + " so far:"));
      past.mixed = true;
    }
    past.kind = kind;
  }
  log.append(piece);
  length += text.length;
  if (length > LOG_LIMIT) {
    while (length > LOG_LIMIT && log.firstChild) {
      length -= log.firstChild.classList.contains("note") ? 0 : log.firstChild.textContent.length;
      log.firstChild.remove();
    }
    log.prepend(set(make("note"), "earlier output is in the log files; "));
  }
  if (below) log.scrollTop = log.scrollHeight;
}

function calm() {
  clearTimeout(sure);
  sure = 0;
  at("stop").className = "";
  at("stop").textContent = "Stop";
}
async function stop() {
  if (!sure) {
    sure = setTimeout(calm, 4000);
    at("stop").className = "sure";
    at("stop").textContent = "Really stop it?";
    return;
  }
  calm();
  const answer = await fetch("stop?id=" + chosen, {method: "POST", headers: {Authorization: "Bearer " + token}});
  notice(answer.ok ? "" : await answer.text());
}

function listen() {
  if (list) list.close();
  list = new EventSource("jobs");
  list.addEventListener("open", () => notice(""));
  list.addEventListener("jobs", event => {
    const told = JSON.parse(event.data);
    received = performance.now();
    rows = new Map(told.jobs.map(row => [row.key, row]));
    const running = runningOf(told.jobs), queued = told.jobs.filter(row => row.status == "queued").length;
    set(at("summary"), told.total + (told.total == 1 ? " job" : " jobs") + (running ? ", " + running + " running" : "")
        + (queued ? ", " + queued + " queued" : "")
        + (told.total > told.jobs.length ? "; the newest " + told.jobs.length + " are shown" : ""));
    draw();
  });
  list.addEventListener("problem", event => notice(JSON.parse(event.data)));
  list.addEventListener("error", () => notice(list.readyState == EventSource.CLOSED
    ? "No access: open the URL that live_page.py printed when it was started." : "Connection lost; trying again..."));
}
async function enter() {
  try {
    if (token) await fetch("enter", {method: "POST", headers: {Authorization: "Bearer " + token}});
  } finally {
    listen();
  }
}

if (asked.has("token")) {  // the token is no longer needed where it can be read over a shoulder
  asked.delete("token");
  history.replaceState(null, "", "#" + asked);
}
at("filter").addEventListener("input", draw);
at("stop").addEventListener("click", stop);
// A browser has six connections for all of its tabs here: one that nobody looks at gives its list's back.
document.addEventListener("visibilitychange", () => document.hidden ? list && list.close() : listen());
addEventListener("hashchange", () => location.reload());  // another token or job was put into the address
setInterval(() => rows.size && !document.hidden && draw(), 1000);
enter();
"""

FILES = {"/": ("text/html", HTML), "/page.css": ("text/css", CSS), "/page.js": ("text/javascript", JS)}


def event(name, value):
    return "event: %s\ndata: %s\n\n" % (name, json.dumps(value))


def row_of(record):
    """Return what the page shows of a job. `key` is its id as a piece of a URL, whatever characters it has."""
    command = record.command if isinstance(record.command, list) else None
    row = {key: record.get(key) for key in (
        "run", "exit_code", "signal", "error", "duration", "started_at", "suspended", "queue", "position", "waits_for")}
    return dict(row, id=record.self_id, key=urllib.parse.quote(record.self_id, safe="", errors="surrogateescape"),
                status=record.status or "unknown", active=record.status is not None and not record.ended,
                command=" ".join(map(shlex.quote, command)) if command else str(record.command or ""))


def list_frames(jobs):
    """Yield the list of jobs now and whenever it has changed, for ever."""
    before, spoke = None, 0.0
    while True:
        began = time.monotonic()
        records = sorted(jobs.list_status().values(), reverse=True,
                         key=lambda record: (record.started_at or record.last_update or "", record.self_id))
        rows = [row_of(record) for record in records[:NEWEST]]
        # The page counts the seconds of what runs by itself.
        now = [len(records), [dict(row, duration=None) if row["active"] else row for row in rows]]
        if now != before:
            yield event("jobs", {"total": len(records), "jobs": rows})
        elif began - spoke > HEARTBEAT:
            yield ": heartbeat\n\n"
        if now != before or began - spoke > HEARTBEAT:
            before, spoke = now, began
        time.sleep(max(PERIOD, 20 * (time.monotonic() - began)))


def newest_last(record):
    """Return the names of a job's streams; what was written last is to be seen last."""
    def written(name):
        try:
            return os.stat(record[name + "_path"]).st_mtime
        except OSError:
            return 0.0
    return sorted(("stdout", "stderr"), key=written)


def output_frames(jobs, job_id, place):
    """Return frames of what a job prints, as `sse` makes them, with a heartbeat after what was there already.

    The page says of that which is stdout and which is stderr: each has a file of its own, so nobody knows how
    they went together. What comes later is sent in the order in which it is seen.
    """
    record = jobs.get_status(job_id)
    # So there is a heartbeat after every look at the files, of which the reader gets the first, and few others.
    frames = jobs.sse(job_id, newest_last(record) if record else (), from_beginning=True, heartbeat_interval=1e-9,
                      last_event_id=place)

    def told():
        live, spoke = False, 0.0
        with contextlib.closing(frames):
            for frame in frames:
                beat = "\nevent: heartbeat\n" in frame
                if beat and live and time.monotonic() - spoke < HEARTBEAT:
                    continue
                yield frame
                live, spoke = live or beat, time.monotonic()
    return told()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request; the server says what it serves."""

    server_version, sys_version = "nodejobs", ""
    timeout = 30  # seconds for a silent client; a browser that does not read for so long comes back by itself

    def log_message(self, format, *arguments):
        """Log nothing: ids are in the URLs, and they are strangers' text."""

    def answer(self, code, text="", content_type="text/plain", headers=()):
        body = text.encode()
        self.head(code, content_type, [("Content-Length", str(len(body))), *headers])
        self.wfile.write(body)

    def head(self, code, content_type, headers=()):
        self.send_response(code)
        for name, value in [("Content-Type", content_type + "; charset=utf-8"), *HEADERS, *headers]:
            self.send_header(name, value)
        self.end_headers()

    def stream(self, frames):
        self.head(200, "text/event-stream")
        try:
            try:
                for frame in frames:
                    self.wfile.write(frame.encode())
            except NodejobsError as error:
                self.wfile.write(event("problem", str(error)).encode())
        finally:
            frames.close()

    def asked(self):
        """Return the path and the job id that the request names."""
        path, _, query = self.path.partition("?")
        return path, dict(urllib.parse.parse_qsl(query, errors="surrogateescape")).get("id", "")

    def is_for_us(self):
        """Tell whether the request names us: a page of a foreign name that leads here does not."""
        host = self.headers.get("Host", "").lower()
        name = re.match(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]+)?\Z", host)
        origins = (None, "http://" + host, "https://" + host)
        return name is not None and (name.group(1) or name.group(2)) in self.server.names and (
            self.headers.get("Origin") in origins)

    def has(self, header, secret):
        given = [part.strip().encode("latin-1") for part in self.headers.get(header, "").split(";")]
        return any([hmac.compare_digest(part, secret.encode()) for part in given])

    def has_token(self):
        return self.has("Authorization", "Bearer " + self.server.token)

    def do_GET(self):
        path, job_id = self.asked()
        if not self.is_for_us():
            return self.answer(421, "This is not %s; see --name.\n" % ascii(self.headers.get("Host")))
        if path in FILES:
            return self.answer(200, FILES[path][1], FILES[path][0])
        if path not in ("/jobs", "/follow"):
            return self.answer(404, "There is no such page.\n")
        if not (self.has_token() or self.has("Cookie", self.server.cookie)):
            return self.answer(403, "Open the URL that was printed when this server was started.\n")
        if path == "/jobs":
            return self.stream(list_frames(self.server.jobs))
        try:
            frames = output_frames(self.server.jobs, job_id, self.headers.get("Last-Event-ID"))
        except NodejobsError as error:
            return self.refuse(error)
        self.stream(frames)

    def do_POST(self):
        path, job_id = self.asked()
        if not self.is_for_us():
            return self.answer(421, "This is not %s; see --name.\n" % ascii(self.headers.get("Host")))
        if not self.has_token():
            return self.answer(403, "This takes the token of the URL that was printed when this server was started.\n")
        if path == "/enter":
            cookie = self.server.cookie + "; HttpOnly; SameSite=Strict; Path=/"
            return self.answer(200, headers=[("Set-Cookie", cookie)])
        if path != "/stop":
            return self.answer(404, "There is no such page.\n")
        try:
            record = self.server.jobs.stop(job_id)
            if record is None:
                raise UnknownJob(job_id, None, self.server.jobs.db_path)
            self.answer(200, record.status + "\n")
        except NodejobsError as error:
            self.refuse(error)

    def refuse(self, error):
        code = 404 if isinstance(error, UnknownJob) else 400 if isinstance(error, SchemaError) else 409
        self.answer(code, str(error).encode("ascii", "backslashreplace").decode() + "\n")


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """A thread for every connection (what Python 3.7 and newer call ThreadingHTTPServer)."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address, jobs, names=()):
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, Handler)
        self.jobs = jobs
        self.names = {"localhost", "127.0.0.1", "::1", address[0].lower(), *[name.lower() for name in names]}
        self.token, reading = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        # Named after the port: cookies do not know ports, and there may be two of us.
        self.cookie = "nodejobs-%d=%s" % (self.server_port, reading)

    def server_bind(self):
        socketserver.TCPServer.server_bind(self)  # HTTPServer's asks the DNS for our name, which can take long
        self.server_name, self.server_port = self.server_address[:2]

    def get_request(self):
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                time.sleep(PERIOD)  # the caller stays in the kernel's queue: select would tell of it again at once
            raise

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # a browser that has left is no error
            super().handle_error(request, client_address)

    @property
    def url(self):
        host = "[%s]" % self.server_name if ":" in self.server_name else self.server_name
        return "http://%s:%d/#token=%s" % (host, self.server_port, self.token)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--db", help="where the jobs are kept; by default where nodejobs.py keeps them")
    parser.add_argument("--port", type=int, default=8321, help="0: any that is free")
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS", help="listen there, and not only on loopback")
    parser.add_argument("--name", action="append", default=[], metavar="HOST", help="a name by which we are called too")
    options = parser.parse_args()
    try:
        server = Server((options.bind, options.port), Jobs(options.db), options.name)
    except OSError as error:
        sys.exit("live_page: cannot listen on %s port %d: %s; try --port 0"
                 % (options.bind, options.port, error.strerror))
    print(server.url, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


if __name__ == "__main__":
    main()
