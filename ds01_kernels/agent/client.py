"""Clients of the agent, their streams and their kernels."""

import asyncio
import json
import os

from . import processes, protocol

HELLO_LIMIT = 10.0
LOG_TAIL = 2000
EXITS_KEPT = 100

#: In the container, the folder that the engine mounts from the host: kernels' sockets go there.
SOCKETS = "/run/ds01"


class Client:
    """A process outside that owns kernels here, whether or not its stream is up."""

    def __init__(self, agent, client_id, owner):
        self.agent = agent
        self.id = client_id
        self.owner = owner
        self.grace = 0.0
        self.kernels = {}
        self.exits = {}
        self._session = None
        self._timer = None

    def connected(self, session, grace):
        self.grace = grace
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._session is not None:
            self._session.close()
        self._session = session

    def disconnected(self, session):
        """Its stream is lost: its kernels live on for its grace time."""
        if self._session is not session:
            return
        self._session = None
        if not self.kernels:
            self.end()
        elif self._timer is None:
            self._timer = asyncio.get_event_loop().call_later(self.grace, self.end)

    def end(self):
        """End all its kernels and forget it. Returns their ids."""
        ended = list(self.kernels)
        for kernel in list(self.kernels.values()):
            kernel.end()
        if self._timer is not None:
            self._timer.cancel()
        if self._session is not None:
            self._session.close()
            self._session = None
        if self.agent.clients.get(self.id) is self:
            del self.agent.clients[self.id]
        return ended

    def remember(self, kernel_id, exit_status):
        """Keep it for a client that reconnects; the newest are enough, since it hears of the others at once."""
        self.exits[kernel_id] = exit_status
        while len(self.exits) > EXITS_KEPT:
            del self.exits[next(iter(self.exits))]

    def send(self, **message):
        if self._session is not None:
            self._session.send(**message)


class Kernel:
    """One kernel process."""

    def __init__(self, client, kernel_id, request):
        self.client = client
        self.id = kernel_id
        self.request = request
        self.pid = None
        self.ready = False
        self._ending = False
        client.kernels[kernel_id] = self
        client.agent.kernels[kernel_id] = self

    def started(self, pid):
        self.pid = pid
        code = self.client.agent.unclaimed.pop(pid, None)
        if code is not None:
            self.exited(code)
        elif self._ending:
            self.end()

    def signal(self, signum):
        if self.pid is not None:
            try:
                os.killpg(self.pid, signum)
            except OSError:
                pass  # it has just ended: `exited` says so

    def end(self):
        self._ending = True
        if self.pid is not None:
            processes.end_kernel(self.id, self.pid)

    def exited(self, code):
        """Its process has ended: end what it left, remove its files, tell the client."""
        processes.end_kernel(self.id, self.pid)
        detail = "" if self.ready and code == 0 else self._log_tail()
        self.forget()
        self.client.remember(self.id, {"code": code, "detail": detail})
        self.client.send(kind="exited", kernel=self.id, code=code, detail=detail)

    def forget(self):
        self.client.kernels.pop(self.id, None)
        self.client.agent.kernels.pop(self.id, None)
        files = [self.request["log"], self.request["connection_file"]]
        files += ["%s-%d" % (self.request["sockets"], port) for port in range(1, 6)]
        for name in files:
            try:
                os.remove(name)
            except OSError:
                continue

    def _log_tail(self):
        try:
            with open(self.request["log"], "rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_TAIL))
                return log.read().decode("utf-8", "replace")
        except OSError:
            return ""


class Session:
    """One connected stream: reads messages, calls the method of that name."""

    def __init__(self, agent, reader, writer):
        self.agent = agent
        self.reader = reader
        self.writer = writer
        self.client = None
        self._tasks = set()

    async def run(self):
        decoder = protocol.Decoder()
        timer = asyncio.get_event_loop().call_later(HELLO_LIMIT, self._give_up)
        try:
            while True:
                data = await self.reader.read(1 << 16)
                if not data:
                    break
                for message in decoder.feed(data):
                    self._receive(message)
        except (OSError, protocol.FramingError, KeyError, TypeError, ValueError) as error:
            print("a client's stream failed: %r" % error, flush=True)
        finally:
            timer.cancel()
            self.close()
            if self.client is not None:
                self.client.disconnected(self)

    def send(self, **message):
        if not self.writer.is_closing():
            self.writer.write(protocol.encode(message))

    def close(self):
        if not self.writer.is_closing():
            self.writer.close()

    def _give_up(self):
        if self.client is None:
            self.close()

    def _receive(self, message):
        if isinstance(message, protocol.Data):
            return
        if self.client is None and message["kind"] not in ("hello", "count"):
            raise ValueError("the first message is not hello")
        handler = getattr(self, "on_" + message["kind"], None)
        if handler is None:
            self.send(kind="error", call=message.get("call"), message="unknown message " + message["kind"])
        else:
            handler(message)

    def on_hello(self, message):
        if message["protocol"] != protocol.VERSION:
            raise ValueError("protocol %r, not %d" % (message["protocol"], protocol.VERSION))
        agent = self.agent
        ended = []
        for other in list(agent.clients.values()):
            if other.id != message["client"] and other.owner and other.owner == message["owner"]:
                ended += other.end()
        client = agent.clients.get(message["client"])
        if client is None:
            client = agent.clients[message["client"]] = Client(agent, message["client"], message["owner"])
        self.client = client
        client.connected(self, float(message["grace"]))
        self.send(
            kind="welcome",
            protocol=protocol.VERSION,
            pid=os.getpid(),
            survey=agent.survey,
            nonce=_read_nonce(message["nonce"]),
            kernels={kernel.id: kernel.pid for kernel in client.kernels.values()},
            exits=client.exits,
            ended=ended,
        )

    def on_prepare(self, message):
        self.agent.starter.prepare(message["path"], message["first"], message["env"])

    def on_spawn(self, message):
        # asyncio keeps only weak references to tasks.
        task = asyncio.ensure_future(self._spawn(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _spawn(self, message):
        call, kernel_id = message["call"], message["kernel"]
        kernel = None
        try:
            request = _request(self.agent, message)
            kernel = Kernel(self.client, kernel_id, request)
            _write_private(request["connection_file"], json.dumps(message["connection"]))
            pid, how, note = await self.agent.starter.start(request)
        except Exception as error:
            if kernel is not None:
                kernel.forget()
            self.client.send(kind="error", call=call, message="%s: %s" % (type(error).__name__, error))
            return
        self.client.send(kind="spawned", call=call, kernel=kernel_id, pid=pid, how=how, note=note)
        kernel.started(pid)

    def on_signal(self, message):
        kernel = self.client.kernels.get(message["kernel"])
        if kernel is not None:
            kernel.signal(int(message["signum"]))

    def on_end(self, message):
        kernel = self.client.kernels.get(message["kernel"])
        if kernel is not None:
            kernel.end()

    def on_adopt(self, message):
        """Take over a kernel whose client knew its own id and told it to us."""
        former = self.agent.clients.get(message["client"])
        kernel = former.kernels.pop(message["kernel"], None) if former else None
        if kernel is None:
            self.send(kind="error", call=message["call"], message="that kernel has ended")
            return
        kernel.client = self.client
        self.client.kernels[kernel.id] = kernel
        self.send(kind="adopted", call=message["call"], pid=kernel.pid)

    def on_goodbye(self, message):
        self.client.end()

    def on_count(self, message):
        self.send(kind="counted", call=message["call"], kernels=len(self.agent.kernels))


def _request(agent, message):
    """What a kernel process needs to know, complete."""
    kernel_id = message["kernel"]
    if not kernel_id.replace("-", "").isalnum() or kernel_id in agent.kernels:
        raise ValueError("the kernel's id %r cannot be used" % kernel_id)
    env = dict(os.environ)
    env.update(message["env"])
    env[processes.KERNEL_VARIABLE] = kernel_id
    env["PATH"] = _with_first(os.path.dirname(agent.survey["executable"]), env.get("PATH", os.defpath))
    for name, path in message["files"].items():
        if name not in os.environ and os.path.exists(path):
            env[name] = path
    return {
        "kernel": kernel_id,
        "agent": os.getpid(),
        "cwd": message["cwd"],
        "env": env,
        "arguments": message["arguments"],
        "connection_file": os.path.join(agent.folder, kernel_id + ".json"),
        "log": os.path.join(agent.folder, kernel_id + ".log"),
        "sockets": message["connection"]["ip"],
    }


def _with_first(folder, path):
    """`which python` and `pip` in a cell's `!` commands are the kernel's own."""
    return os.pathsep.join([folder] + [entry for entry in path.split(os.pathsep) if entry != folder])


def _read_nonce(name):
    """What the host wrote into the mounted folder, to prove that both see the same one."""
    try:
        with open(os.path.join(SOCKETS, os.path.basename(name))) as nonce:
            return nonce.read(100)
    except OSError:
        return ""


def _write_private(path, text):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as output:
        output.write(text)
