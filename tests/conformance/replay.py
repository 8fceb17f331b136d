#!/usr/bin/env python3
"""Replay recorded sessions with the dlb2 kernel driver and compare the answers.

    replay.py [options] RECORDING.jsonl ...

Every scenario of the recordings (see README.md for the format) is executed
step by step against the /dev/dlbN that this process sees: the real one, or
one that a preloaded library shows it (LD_PRELOAD=... replay.py ...).  Prints
the first differences of each scenario and one last line

    N scenarios, M steps, K differences

and exits 0 only if K is 0.  Needs nothing but the standard library; x86-64
Linux only (it stores queue elements with a 16-byte store instruction).

Each scenario expects a device that nobody has used since the driver was
loaded.  The parent process never opens the device; each scenario runs in a
process of its own (--isolate), which is enough for an emulation whose state
lives in the process.  With --rebind (real driver, root) the driver is unbound
from the device and bound again before each scenario.
"""

import argparse
import ctypes
import errno
import fnmatch
import json
import os
import select
import signal
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

R, RW = 2, 3
STRICT = "(strict)"

RESPONSE = (("status", "I", 0), ("id", "I", 4))


def _fields(text):
    """ "a:I@8 b:4I@12" -> ((name, struct format, offset), ...)."""
    out = []
    for word in text.split():
        name, rest = word.split(":")
        fmt, off = rest.split("@")
        out.append((name, fmt, int(off)))
    return RESPONSE + tuple(out)


def _command(direction, nr, size, text=""):
    return direction, nr, size, _fields(text)


_PORT = "port_id:I@8 padding0:I@12"
_FD = "port_id:I@8 padding0:I@12"

DEVICE = {
    "GET_DEVICE_VERSION": _command(R, 0, 8),
    "CREATE_SCHED_DOMAIN": _command(
        RW,
        1,
        104,
        """
        domain_fd:I@8 padding0:I@12 num_ldb_queues:I@16 num_ldb_ports:I@20
        num_cos_ldb_ports:4I@24 num_dir_ports:I@40 num_atomic_inflights:I@44
        num_hist_list_entries:I@48 num_ldb_credits:I@52 num_dir_credits:I@56
        cos_strict:B@60 padding1:3B@61 num_sn_slots:2I@64 pcore_mask:2Q@72
        core_mask:2Q@88""",
    ),
    "GET_NUM_RESOURCES": _command(
        R,
        2,
        68,
        """
        num_sched_domains:I@8 num_ldb_queues:I@12 num_ldb_ports:I@16
        num_cos_ldb_ports:4I@20 num_dir_ports:I@36 num_atomic_inflights:I@40
        num_hist_list_entries:I@44 max_contiguous_hist_list_entries:I@48
        num_ldb_credits:I@52 num_dir_credits:I@56 num_sn_slots:2I@60""",
    ),
    "SET_SN_ALLOCATION": _command(RW, 5, 16, "group:I@8 num:I@12"),
    "GET_SN_ALLOCATION": _command(RW, 6, 16, "group:I@8 padding0:I@12"),
    "SET_COS_BW": _command(RW, 7, 16, "cos_id:I@8 bandwidth:I@12"),
    "GET_COS_BW": _command(RW, 8, 16, "cos_id:I@8 padding0:I@12"),
    "GET_SN_OCCUPANCY": _command(RW, 9, 16, "group:I@8 padding0:I@12"),
    "QUERY_CQ_POLL_MODE": _command(R, 10, 8),
    "GET_XSTATS": _command(RW, 11, 24, "xstats_val:Q@8 xstats_type:I@16 xstats_id:I@20"),
}

DOMAIN = {
    "CREATE_LDB_QUEUE": _command(
        RW,
        0,
        32,
        """
        num_sequence_numbers:I@8 num_qid_inflights:I@12 num_atomic_inflights:I@16
        lock_id_comp_level:I@20 depth_threshold:I@24 padding0:I@28""",
    ),
    "CREATE_DIR_QUEUE": _command(RW, 1, 16, "port_id:i@8 depth_threshold:I@12"),
    "CREATE_LDB_PORT": _command(
        RW,
        2,
        20,
        """
        cq_depth:H@8 cq_depth_threshold:H@10 cq_history_list_size:H@12 cos_id:B@14
        cos_strict:B@15 enable_inflight_ctrl:B@16 inflight_threshold:H@18""",
    ),
    "CREATE_DIR_PORT": _command(
        RW,
        3,
        20,
        """
        cq_depth:H@8 cq_depth_threshold:H@10 queue_id:i@12 is_producer:B@16""",
    ),
    "START_DOMAIN": _command(R, 4, 8),
    "MAP_QID": _command(RW, 5, 24, "port_id:I@8 qid:I@12 priority:I@16 padding0:I@20"),
    "UNMAP_QID": _command(RW, 6, 16, "port_id:I@8 qid:I@12"),
    "ENABLE_LDB_PORT": _command(RW, 7, 16, _PORT),
    "ENABLE_DIR_PORT": _command(RW, 8, 12, "port_id:I@8"),
    "DISABLE_LDB_PORT": _command(RW, 9, 16, _PORT),
    "DISABLE_DIR_PORT": _command(RW, 10, 16, _PORT),
    "BLOCK_ON_CQ_INTERRUPT": _command(
        RW,
        11,
        24,
        """
        port_id:I@8 is_ldb:B@12 arm:B@13 cq_gen:B@14 padding0:B@15 cq_va:Q@16""",
    ),
    "ENQUEUE_DOMAIN_ALERT": _command(RW, 12, 16, "aux_alert_data:Q@8"),
    "GET_LDB_QUEUE_DEPTH": _command(RW, 13, 16, "queue_id:I@8 padding0:I@12"),
    "GET_DIR_QUEUE_DEPTH": _command(RW, 14, 16, "queue_id:I@8 padding0:I@12"),
    "PENDING_PORT_UNMAPS": _command(RW, 15, 16, _PORT),
    "GET_LDB_PORT_PP_FD": _command(RW, 16, 16, _FD),
    "GET_LDB_PORT_CQ_FD": _command(RW, 17, 16, _FD),
    "GET_DIR_PORT_PP_FD": _command(RW, 18, 16, _FD),
    "GET_DIR_PORT_CQ_FD": _command(RW, 19, 16, _FD),
    "ENABLE_CQ_WEIGHT": _command(RW, 20, 16, "port_id:I@8 limit:I@12"),
    "ENABLE_CQ_EPOLL": _command(
        RW,
        21,
        24,
        """
        port_id:I@8 process_id:I@12 event_fd:I@16 is_ldb:B@20 padding0:3B@21""",
    ),
    "SET_CQ_INFLIGHT_CTRL": _command(RW, 22, 16, "port_id:I@8 enable:H@12 threshold:H@14"),
    "STOP_DOMAIN": _command(R, 23, 8),
}

COMMANDS = {**DEVICE, **DOMAIN}
FD_RESULT = {"GET_LDB_PORT_PP_FD", "GET_LDB_PORT_CQ_FD", "GET_DIR_PORT_PP_FD", "GET_DIR_PORT_CQ_FD"}
CREATES = {
    "CREATE_SCHED_DOMAIN",
    "CREATE_LDB_QUEUE",
    "CREATE_DIR_QUEUE",
    "CREATE_LDB_PORT",
    "CREATE_DIR_PORT",
} | FD_RESULT


def request(name):
    direction, nr, size, _ = COMMANDS[name]
    return direction << 30 | size << 16 | ord("h") << 8 | nr


# ---------------------------------------------------------------- system calls

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
FAILED = ctypes.c_void_p(-1).value
PAGE = 4096
PROT = {"-": 0, "r": 1, "w": 2, "x": 4}
MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS = 1, 2, 0x20


class Scratch:
    """Two pages, the second inaccessible: argument buffers that are writable,
    read-only, or cut off by the end of the first page."""

    def __init__(self):
        self.at = libc.mmap(None, 2 * PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        libc.mprotect(self.at + PAGE, PAGE, 0)

    def write(self, at, data):
        ctypes.memmove(at, bytes(data), len(data))

    def read(self, at, n):
        return ctypes.string_at(at, n)

    def protect(self, prot):
        libc.mprotect(self.at, PAGE, prot)


def machine_code(code):
    at = libc.mmap(None, PAGE, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    ctypes.memmove(at, code, len(code))
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(at)


# rdi: producer port, rsi: queue element(s)
STORE16 = bytes.fromhex(
    "f30f6f06"  # movdqu (%rsi),%xmm0
    "660fe707"  # movntdq %xmm0,(%rdi)
    "0faef8c3"
)  # sfence; ret
STORE64 = bytes.fromhex(
    "4889f8"  # mov %rdi,%rax
    "660f38f806"  # movdir64b (%rsi),%rax
    "0faef8c3"
)  # sfence; ret


class MissingError(Exception):
    """A step names a handle that an earlier step failed to make."""


class Session:
    """One scenario: its handles (descriptors, ids, mappings) and how to run a step."""

    def __init__(self, version, device="/dev/dlb0", settle=0.5, store=16, recording=False):
        self.version, self.device, self.settle, self.recording = version, device, settle, recording
        self.fds = {}  # handle -> descriptor
        self.kinds = {}  # handle -> device, domain, pp, cq, eventfd
        self.ids = {}  # handle -> id the driver gave
        self.maps = {}  # handle -> (address, length)
        self.scratch = Scratch()
        self.store_size = store
        self.store = machine_code(STORE64 if store == 64 else STORE16)

    def run(self, step):
        """Execute one step; the answer is what a recording holds under "res"."""
        do = getattr(self, "do_" + step["op"])
        try:
            if step.get("settle"):
                return self.settled(step, do)
            return do(step)
        except MissingError as e:
            return {"missing": str(e)}

    def settled(self, step, do):
        """For answers that follow an asynchronous event (a store to a producer port):
        ask again until the recorded answer comes, or time is up."""
        want = step.get("res")
        if self.recording:
            return self.quiet(do, step)
        end = time.monotonic() + self.settle
        while True:
            res = do(step)
            strict = [STRICT] if step["s"].startswith("assumed-") else []
            if not differing(want, res, strict) or self.taken(step, res) or time.monotonic() > end:
                return res
            time.sleep(0.001)

    @staticmethod
    def taken(step, res):
        """This answer was taken out of the device and cannot be had again."""
        return step["op"] in ("read", "read_eventfd") and res["ret"] >= 0

    def quiet(self, do, step, quiet=0.08):
        """Recording: the answer once it has not changed for a while."""
        res, since = do(step), time.monotonic()
        while time.monotonic() - since < quiet:
            if self.taken(step, res):
                return res
            time.sleep(0.004)
            new = do(step)
            if new != res:
                res, since = new, time.monotonic()
        return res

    # helpers

    def fd(self, handle):
        if isinstance(handle, int):
            return handle
        if handle not in self.fds:
            raise MissingError(handle)
        return self.fds[handle]

    def value(self, v):
        """An argument: a number, a handle ("lq0": its id; "ev0": its descriptor;
        "cq0+64": address in a mapping), "self" (process id)."""
        if isinstance(v, list):
            return [self.value(x) for x in v]
        if not isinstance(v, str):
            return v
        if v == "self":
            return os.getpid()
        base, _, off = v.partition("+")
        if base in self.maps:
            return self.maps[base][0] + int(off or 0)
        if base in self.ids:
            return self.ids[base]
        if base in self.fds:
            return self.fds[base]
        raise MissingError(v)

    @staticmethod
    def outcome(ret, **more):
        res = {"ret": ret}
        if ret < 0:
            e = ctypes.get_errno()
            res["errno"] = errno.errorcode.get(e, str(e))
        res.update(more)
        return res

    @staticmethod
    def call(f, *a):
        try:
            return {"ret": 0}, f(*a)
        except OSError as e:
            return {"ret": -1, "errno": errno.errorcode.get(e.errno, str(e.errno))}, None

    # steps

    def do_open(self, step):
        flags = 0
        for name in step.get("flags", "O_RDWR").split("|"):
            flags |= getattr(os, name)
        res, fd = self.call(os.open, self.device, flags)
        if fd is not None:
            self.fds[step["as"]], self.kinds[step["as"]] = fd, "device"
        return res

    def do_close(self, step):
        res, _ = self.call(os.close, self.fd(step["on"]))
        self.fds.pop(step["on"], None)
        return res

    def do_dup(self, step):
        res, fd = self.call(os.dup, self.fd(step["on"]))
        if fd is not None:
            self.fds[step["as"]], self.kinds[step["as"]] = fd, self.kinds[step["on"]]
        return res

    def do_ioctl(self, step):
        name, where = step.get("cmd"), step.get("arg", "ok")
        req = step.get("req", request(name) if name else 0)
        size, fields = COMMANDS[name][2:] if name else (0, ())
        buf = bytearray(512)
        args = step.get("args", {})
        for field, fmt, off in fields:
            if field in args:
                v = self.value(args[field])
                struct.pack_into("<" + fmt, buf, off, *(v if isinstance(v, list) else [v]))
        before = bytes(buf)
        s = self.scratch
        at = s.at
        if where == "split":  # the last 4 bytes are on the inaccessible page
            at = s.at + PAGE - (size - 4)
            s.write(at, buf[: size - 4])
        else:
            s.write(at, buf)
        pointer = {"null": 0, "unmapped": s.at + PAGE, "kernel": 0xFFFF800000000000}.get(where, at)
        fd = self.fd(step["on"])
        if where == "readonly":
            s.protect(1)
        ctypes.set_errno(0)
        ret = libc.ioctl(fd, req, pointer)
        e = ctypes.get_errno()
        if where == "readonly":
            s.protect(3)
        if where == "split":
            buf[: size - 4] = s.read(at, size - 4)
        else:
            buf[:] = s.read(at, len(buf))
        ctypes.set_errno(e)
        res = self.outcome(ret if ret <= 0 else 1)
        if where == "split":
            buf[size - 4 :] = before[size - 4 :]
        got = {f: self.unpack(buf, fmt, off) for f, fmt, off in fields}
        if name:
            res["status"], res["id"] = got.pop("status"), got.pop("id")
        if ret == 0 and where != "readonly":
            self.keep(step, name, got, res)
        out = {f: v for f, v in got.items() if v != self.unpack(before, *self.spec(fields, f))}
        if out:
            res["out"] = out
        beyond = bytes(buf[size:]).rstrip(b"\0")
        if beyond:
            res["beyond"] = beyond.hex()
        return res

    @staticmethod
    def spec(fields, name):
        return next((fmt, off) for f, fmt, off in fields if f == name)

    @staticmethod
    def unpack(buf, fmt, off):
        v = struct.unpack_from("<" + fmt, buf, off)
        return list(v) if len(fmt) > 1 else v[0]

    def keep(self, step, name, got, res):
        """Give the thing that a successful command made its handle; descriptors
        are never compared as numbers."""
        handle = step.get("as")
        if name == "CREATE_SCHED_DOMAIN":
            fd, got["domain_fd"] = got["domain_fd"], "fd"
            if handle:
                self.fds[handle], self.kinds[handle], self.ids[handle] = fd, "domain", res["id"]
        elif name in FD_RESULT:
            fd, res["id"] = res["id"], "fd"
            if handle:
                self.fds[handle], self.kinds[handle] = fd, "cq" if "CQ" in name else "pp"
        elif handle:
            self.ids[handle] = res["id"]

    def do_mmap(self, step):
        prot = 0
        for c in step.get("prot", "rw"):
            prot |= PROT[c]
        flags = {"shared": MAP_SHARED, "private": MAP_PRIVATE}[step.get("flags", "shared")]
        ctypes.set_errno(0)
        at = libc.mmap(None, step["len"], prot, flags, self.fd(step["on"]), step.get("offset", 0))
        if at == FAILED:
            return self.outcome(-1)
        self.maps[step["as"]] = (at, step["len"])
        return self.outcome(0)

    def do_munmap(self, step):
        if step["on"] not in self.maps:
            raise MissingError(step["on"])
        return self.outcome(libc.munmap(*self.maps.pop(step["on"])))

    def do_store(self, step):
        """Queue elements to a producer port, one 16-byte store each, padded with
        all-zero ones (no-operations) to a multiple of four."""
        if step["on"] not in self.maps:
            raise MissingError(step["on"])
        at = self.maps[step["on"]][0] + step.get("offset", 0)
        data = b"".join(bytes.fromhex(q) for q in step["qes"])
        data += bytes(-len(data) % 64)
        line = ctypes.create_string_buffer(128)
        src = (ctypes.addressof(line) + 63) & ~63
        for i in range(0, len(data), self.store_size):
            ctypes.memmove(src, data[i : i + self.store_size], self.store_size)
            self.store(at, src)
        return {"ret": 0}

    def do_cq(self, step):
        """The first 16 bytes of `slots` 64-byte slots of a consumer queue."""
        if step["on"] not in self.maps:
            raise MissingError(step["on"])
        at = self.maps[step["on"]][0] + 64 * step.get("from", 0)
        return {"ret": 0, "slots": [ctypes.string_at(at + 64 * i, 16).hex() for i in range(step["slots"])]}

    def do_alerts(self, step):
        """ENQUEUE_DOMAIN_ALERT `count` times with 0, 1, 2, ..."""
        ok = 0
        for i in range(step["count"]):
            ok += (
                self.do_ioctl({"on": step["on"], "cmd": "ENQUEUE_DOMAIN_ALERT", "args": {"aux_alert_data": i}})["ret"]
                == 0
            )
        return {"ret": 0, "accepted": ok}

    def do_read(self, step):
        fd = self.fd(step["on"])
        os.set_blocking(fd, False)
        res, data = self.call(os.read, fd, step.get("len", 16))
        if data is not None:
            res["ret"] = len(data)
            if len(data) == 16:
                res["alert"], res["aux"] = struct.unpack("<QQ", data)
        return res

    def do_write(self, step):
        return self.call(os.write, self.fd(step["on"]), bytes(step.get("len", 16)))[0]

    def do_lseek(self, step):
        return self.call(os.lseek, self.fd(step["on"]), 0, os.SEEK_SET)[0]

    def do_poll(self, step):
        p = select.poll()
        p.register(self.fd(step["on"]), select.POLLIN | select.POLLOUT)
        got = p.poll(0)
        names = [
            n for n in ("POLLIN", "POLLOUT", "POLLERR", "POLLHUP", "POLLNVAL") if got and got[0][1] & getattr(select, n)
        ]
        return {"ret": 0, "events": "|".join(names)}

    def do_epoll(self, step):
        ep = select.epoll()
        try:
            return self.call(ep.register, self.fd(step["on"]), select.EPOLLIN)[0]
        finally:
            ep.close()

    def do_fstat(self, step):
        st = os.fstat(self.fd(step["on"]))
        kind = next(
            (k for k in ("CHR", "REG", "DIR", "FIFO", "SOCK", "BLK", "LNK") if getattr(stat, "S_IS" + k)(st.st_mode)),
            "none",
        )
        return {"ret": 0, "type": kind, "mode": oct(stat.S_IMODE(st.st_mode)), "size": st.st_size}

    def do_link(self, step):
        return {"ret": 0, "link": str(Path(f"/proc/self/fd/{self.fd(step['on'])}").readlink())}

    def do_fcntl(self, step):
        import fcntl

        fd = self.fd(step["on"])
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        return {
            "ret": 0,
            "cloexec": bool(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC),
            "access": ("O_RDONLY", "O_WRONLY", "O_RDWR", "3")[flags & 3],
            "nonblock": bool(flags & os.O_NONBLOCK),
        }

    def do_eventfd(self, step):
        self.fds[step["as"]] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.kinds[step["as"]] = "eventfd"
        return {"ret": 0}

    def do_read_eventfd(self, step):
        res, v = self.call(os.eventfd_read, self.fd(step["on"]))
        if v is not None:
            res["value"] = v
        return res

    def do_sysfs(self, step):
        """Attribute files below /sys/class/dlb2/dlbN/device, by name."""
        base = f"/sys/class/dlb2/{Path(self.device).name}/device/"
        out = {}
        for name in step["files"]:
            try:
                with Path(base + name).open() as f:
                    out[name] = f.read().strip()
            except OSError as e:
                out[name] = errno.errorcode.get(e.errno, str(e.errno))
        return {"ret": 0, "values": out}

    def do_sysfs_write(self, step):
        base = f"/sys/class/dlb2/{Path(self.device).name}/device/"

        def write():
            fd = os.open(base + step["file"], os.O_WRONLY)
            try:
                os.write(fd, step["value"].encode())
            finally:
                os.close(fd)

        return self.call(write)[0]


# ---------------------------------------------------------------- replay


def load(paths):
    """{(scenario, version): [step, ...]} in the order of the files.

    A recording is a header line for each scenario, {"scenario": name, "versions":
    [...]}, and a line for each of its steps. "res" is the answer; "res25", where it
    is there, the one of DLB 2.5. Each step gets its scenario, version and number.
    """
    out, current = {}, []
    for path in paths:
        with Path(path).open() as f:
            for line in f:
                if not line.strip():
                    continue
                step = json.loads(line)
                if "scenario" in step:
                    current = [(v, out.setdefault((step["scenario"], v), [])) for v in step["versions"]]
                    name = step["scenario"]
                    continue
                res25 = step.pop("res25", step["res"])
                for v, steps in current:
                    steps.append(
                        {**step, "res": res25 if v == "2.5" else step["res"], "s": name, "v": v, "n": len(steps)}
                    )
    return out


def pci_address(device):
    return Path(f"/sys/class/dlb2/{Path(device).name}/device").resolve().name


def rebind(address, device, driver="/sys/bus/pci/drivers/dlb2/"):
    for name in ("unbind", "bind"):
        with Path(driver + name).open("w") as f:
            f.write(address)
    end = time.monotonic() + 10
    while not Path(device).exists() and time.monotonic() < end:
        time.sleep(0.002)


def run_steps(steps, opts, emit):
    signal.alarm(int(opts["timeout"]))
    s = Session(steps[0]["v"], opts["device"], opts["settle"], opts["store"])
    for step in steps:
        emit(s.run(step))


def in_fork(steps, opts):
    rd, wr = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            os.close(rd)
            run_steps(steps, opts, lambda r: os.write(wr, (json.dumps(r) + "\n").encode()))
            code = 0
        except BaseException as e:
            os.write(wr, (json.dumps({"exception": repr(e)}) + "\n").encode())
        finally:
            # The exit closes what the scenario left open: part of the exercise.
            os._exit(code)
    os.close(wr)
    with os.fdopen(rd) as f:
        results = [json.loads(x) for x in f.read().splitlines() if x.endswith("}")]
    return results, ending(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def in_exec(steps, opts):
    p = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(opts)],
        input=json.dumps(steps),
        stdout=subprocess.PIPE,
        text=True,
    )
    return [json.loads(x) for x in p.stdout.splitlines() if x.endswith("}")], ending(p.returncode)


def ending(code):
    if code == -signal.SIGALRM:
        return "hung: no answer in time"
    if code:
        return "process ended with %s" % (signal.Signals(-code).name if code < 0 else code)
    return ""


def child_main(opts):
    steps = json.load(sys.stdin)
    run_steps(steps, opts, lambda r: print(json.dumps(r), flush=True))
    sys.stdout.flush()
    os._exit(0)


def brief(step):
    keys = ("op", "on", "cmd", "args", "arg", "as")
    text = " ".join(str(step[k]) if k != "args" else json.dumps(step[k]) for k in keys if k in step)
    return text + (" req=0x{:x}".format(step["req"]) if "req" in step else "")


def unsettled(slots):
    """What is not documented about an entry is left out of the comparison: byte 14,
    bits 1-2 of byte 15 (queue depth code), and bytes 12-13 of a directed entry."""
    out = []
    for x in slots:
        e = bytearray.fromhex(x)
        e[14] = 0
        e[15] &= ~6
        if e[11] & 3 == 3:
            e[12] = e[13] = 0
        out.append(bytes(e))
    return out


def differing(want, got, ignore):
    def same(k):
        a, b = want.get(k), got.get(k)
        if k == "slots" and a and b and STRICT not in ignore:
            a, b = unsettled(a), unsettled(b)
        return a == b

    return sorted(k for k in set(want) | set(got) if k not in ignore and not same(k))


def main():
    ap = argparse.ArgumentParser(description="replay driver recordings and compare the answers")
    ap.add_argument("recordings", nargs="*", help=".jsonl files")
    ap.add_argument("--version", choices=("2.0", "2.5"), help="only recordings of this device")
    ap.add_argument("--scenario", action="append", help="only this scenario (repeatable, wildcards)")
    ap.add_argument("--skip", action="append", default=[], help="not this scenario (wildcards)")
    ap.add_argument(
        "--skip-op", action="append", default=[], help="do not execute steps of this kind (e.g. sysfs, fstat, link)"
    )
    ap.add_argument("--ignore", action="append", default=[], help="do not compare this key of the answers (e.g. id)")
    ap.add_argument(
        "--strict",
        action="store_true",
        help="compare also the undocumented bits of CQ entries, as in the\nscenarios named assumed-*",
    )
    ap.add_argument("--device", default="/dev/dlb0")
    ap.add_argument("--max-diff", type=int, default=5, help="differences printed per scenario")
    ap.add_argument("--settle", type=float, default=0.5, help="seconds to wait for asynchronous answers")
    ap.add_argument(
        "--store", type=int, choices=(16, 64), default=16, help="bytes per store to a producer port (64: MOVDIR64B)"
    )
    ap.add_argument(
        "--isolate", choices=("fork", "exec", "none"), default="fork", help="how each scenario gets its process"
    )
    ap.add_argument("--rebind", action="store_true", help="real driver: rebind before each scenario")
    ap.add_argument("--before", help="shell command to run before each scenario")
    ap.add_argument("--timeout", type=int, default=30, help="seconds per scenario")
    ap.add_argument("--list", action="store_true", help="print the scenarios and stop")
    ap.add_argument("--json", help="write every difference to this file, one object a line")
    ap.add_argument("--child", help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.child:
        return child_main(json.loads(a.child))
    if not a.recordings:
        ap.error("no recordings")
    if a.strict:
        a.ignore.append(STRICT)
    opts = {"device": a.device, "settle": a.settle, "store": a.store, "timeout": a.timeout}
    todo = {
        k: v
        for k, v in load(a.recordings).items()
        if (not a.version or k[1] == a.version)
        and (not a.scenario or any(fnmatch.fnmatch(k[0], p) for p in a.scenario))
        and not any(fnmatch.fnmatch(k[0], p) for p in a.skip)
    }
    if a.list:
        for (name, version), steps in todo.items():
            print(f"{name:<44} {version} {len(steps):4d} steps")
        return 0
    address = pci_address(a.device) if a.rebind else None
    report = Path(a.json).open("w") if a.json else None  # noqa: SIM115 - open to the end
    total = steps_done = 0
    for (name, version), steps in todo.items():
        steps = [s for s in steps if s["op"] not in a.skip_op]
        if a.rebind:
            rebind(address, a.device)
        if a.before:
            subprocess.run(a.before, shell=True, check=True)
        if a.isolate == "none":
            results, end = [], ""
            run_steps(steps, opts, results.append)
        else:
            results, end = (in_fork if a.isolate == "fork" else in_exec)(steps, opts)
        found = []
        for step, got in zip(steps, results, strict=False):
            keys = differing(step["res"], got, a.ignore + [STRICT] * name.startswith("assumed-"))
            if keys:
                found.append((step, got, keys))
        if end or len(results) < len(steps):
            at = steps[min(len(results), len(steps) - 1)]
            found.append((at, {"end": end or "stopped early"}, ["end"]))
        steps_done += len(results)
        total += len(found)
        for i, (step, got, keys) in enumerate(found):
            if report:
                json.dump({"step": step, "got": got, "keys": keys}, report)
                report.write("\n")
            if i < a.max_diff:
                print(f"{name} [{version}] step {step['n']}: {brief(step)}")
                for k in keys:
                    recorded, here = json.dumps(step["res"].get(k)), json.dumps(got.get(k))
                    print(f"    {k:<8} recorded {recorded}, here {here}")
        if len(found) > a.max_diff:
            print(f"{name} [{version}]: {len(found) - a.max_diff} more differences")
    if a.rebind:  # some scenarios leave a device that makes no more domains
        rebind(address, a.device)
    print(f"{len(todo)} scenarios, {steps_done} steps, {total} differences")
    return 1 if total or not todo else 0


if __name__ == "__main__":
    sys.exit(main())
