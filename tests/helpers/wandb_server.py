"""A stand-in for W&B's server on this machine: what the package's runs, `wandb sync` and the dashboard ask of it."""

import base64
import gzip
import http.server
import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

ENTITY = "somebody"
PROJECT = "resnet_repro"


@dataclass
class StoredRun:
    """What the server holds of a run. Lines are kept by the offset that they were sent with, as W&B's protocol says."""

    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    num_received: Counter[str] = field(default_factory=Counter)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows that were logged, in the order of their lines."""
        rows = self.lines.get("wandb-history.jsonl", {})
        return [rows[offset] for offset in sorted(rows)]


Parameters = dict[str, Any]


@dataclass
class StoredSweep:
    """A sweep whose next parameters follow from the results so far."""

    choose: Callable[[list[StoredRun]], Parameters | None]
    """From the runs so far, all of them over, to the parameters of the next; None ends the sweep."""
    config: str = ""
    """As `wandb sweep` sent it, in YAML."""
    runs: list[str] = field(default_factory=list)
    """The ids of the runs, in their order."""


class WandbServer:
    """Serves from the moment it is made until `stop`; `variables` are the environment that leads W&B here.

    Args:
        port: of an earlier server to take the place of; by default a free one.
    """

    def __init__(self, *, port: int = 0) -> None:
        self.runs: dict[str, StoredRun] = {}
        """By run id."""
        self.reports: dict[str, dict[str, Any]] = {}
        """By id; `spec` is JSON."""
        self.sweep: StoredSweep | None = None
        """What `wandb sweep` will set up."""
        self.projects: set[str] = set()
        self.unknown: list[str] = []
        """Questions that this stand-in does not know: a test that meets one shows nothing."""
        self.http = _Server(("127.0.0.1", port), type("Handler", (_Handler,), {"server_of_wandb": self}))
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.variables = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "0" * 40}
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        self.http.shutdown()
        self.http.server_close()

    def receive(self, run: StoredRun, files: dict[str, Any]) -> None:
        """A piece of a run's stream: lines, each file's from an offset on."""
        for name, part in files.items():
            run.num_received[name] += len(part["content"])
            if name == "wandb-summary.json":
                run.summary |= json.loads(part["content"][-1])
            elif name.endswith(".jsonl"):
                lines = {part["offset"] + i: json.loads(line) for i, line in enumerate(part["content"])}
                run.lines.setdefault(name, {}).update(lines)

    def answer(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL question."""
        name = asked.get("project") or asked.get("projectName") or PROJECT
        project = {"id": "P1", "name": name, "entityName": ENTITY, "entity": {"id": "E1", "name": ENTITY}}
        viewer = {"id": "V1", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": "", "flags": "{}"}
        match operation:
            case "Viewer" | "GetViewer" | "GetDefaultEntity":
                return {"viewer": viewer | {"teams": {"edges": []}, "apiKeys": {"edges": []}, "admin": False}}
            case "UpsertBucket":
                return {"upsertBucket": {"bucket": self._upsert(asked) | {"project": project}, "inserted": True}}
            case "RunResumeStatus":
                return {"model": project | {"bucket": self._resumable(asked["name"])}}
            case "CreateRunFiles":
                urls = [{"name": file, "uploadUrl": f"{self.url}/upload/{file}"} for file in asked["files"]]
                return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": urls}}
            case "ProjectInternalId":
                known = project | {"internalId": base64.b64encode(b"ProjectInternalId:1").decode()}
                return {"project": known if name in self.projects else None}
            case "GetProjects":
                rest = {"createdAt": "", "isBenchmark": False, "user": None}
                nodes = [{"node": project | rest | {"name": each}} for each in sorted(self.projects)]
                return {"models": {"edges": nodes, "pageInfo": {"hasNextPage": False, "endCursor": None}}}
            case "ProjectViews":
                nodes = [{"node": view, "cursor": key} for key, view in self.reports.items()]
                return {"project": {"allViews": {"edges": nodes, "pageInfo": {"hasNextPage": False}}}}
            case "upsertView":
                key = asked.get("id") or f"View{len(self.reports) + 1}"
                known = ("name", "displayName", "description", "spec", "type")
                self.reports[key] = {"id": key, "project": project} | {key: asked.get(key) for key in known}
                return {"upsertView": {"view": self.reports[key], "inserted": not asked.get("id")}}
            case "UpsertSweep" if self.sweep:
                self.sweep.config = asked["config"]
                return {
                    "upsertSweep": {"sweep": {"name": "sweep1", "project": project}, "configValidationWarnings": []}
                }
            case "SweepWithRuns" if self.sweep:
                sweep = {"id": "S1", "name": asked["sweep"], "config": self.sweep.config, "runs": {"edges": []}}
                return {"project": {"sweep": sweep}}
            case "CreateAgent":
                return {"createAgent": {"agent": {"id": "A1"}}}
            case "Heartbeat" if self.sweep:
                commands = [] if json.loads(asked["runState"]) else [self._command(self.sweep)]
                return {"agentHeartbeat": {"agent": {"id": asked["id"]}, "commands": json.dumps(commands)}}
            case "OrganizationCoreWeaveOrganizationID":
                return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "RunStoppedStatus":
                return {"project": {"run": {"stopped": False}}}
        self.unknown.append(operation)
        return {}

    def _command(self, sweep: StoredSweep) -> dict[str, Any]:
        """What an agent whose run is over has to do next."""
        chosen = sweep.choose([self.runs[key] for key in sweep.runs])
        if chosen is None:
            return {"type": "exit"}
        sweep.runs.append(f"trial{len(sweep.runs)}")
        args = {key: {"value": value} for key, value in chosen.items()}
        program = yaml.safe_load(sweep.config)["program"]
        return {"type": "run", "run_id": sweep.runs[-1], "program": program, "args": args}

    def _upsert(self, asked: dict[str, Any]) -> dict[str, Any]:
        key = asked.get("name") or base64.b64decode(asked["id"]).decode()
        run = self.runs.setdefault(key, StoredRun())
        self.projects.add(asked.get("project") or PROJECT)
        run.name = asked.get("displayName") or run.name
        run.config |= json.loads(asked.get("config") or "{}")
        return self._bucket(key, run)

    def _bucket(self, key: str, run: StoredRun) -> dict[str, Any]:
        return {
            "id": base64.b64encode(key.encode()).decode(),
            "name": key,
            "displayName": run.name,
            "config": json.dumps(run.config),
            "historyLineCount": len(run.history),
        }

    def _resumable(self, key: str) -> dict[str, Any] | None:
        """What a run that goes on has to know of itself."""
        if (run := self.runs.get(key)) is None:
            return None
        events = run.lines.get("wandb-events.jsonl", {})
        return self._bucket(key, run) | {
            "summaryMetrics": json.dumps(run.summary),
            "logLineCount": 0,
            "eventsLineCount": len(events),
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsTail": json.dumps([json.dumps(events[max(events)])] if events else []),
            "tags": [],
            "wandbConfig": json.dumps({"t": {}}),
        }


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: W&B's process resets idle connections at its end."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of_wandb: WandbServer

    def log_message(self, *args: Any) -> None:
        """Nothing."""

    def _body(self) -> bytes:
        body = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        self._body()  # files of a run, which nothing here asks for again
        self._reply({})

    def do_POST(self) -> None:
        server, body = self.server_of_wandb, self._body()
        if self.path == "/graphql":
            question = json.loads(body)
            named = re.search(r"(?:query|mutation)\s+(\w+)", question["query"])
            assert named
            self._reply({"data": server.answer(named[1], question.get("variables") or {})})
        elif found := re.match(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            server.receive(server.runs[found[1]], json.loads(body).get("files") or {})
            self._reply({"exitcode": None, "limits": {}})
        else:
            if not self.path.startswith("/sdk/otel"):
                server.unknown.append(self.path)
            self._reply({})
