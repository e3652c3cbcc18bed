#!/usr/bin/env python3
# husk: carries a running Linux under load from accelerator to accelerator
"""Moves of a running machine.

    test_moves.py --husk PROGRAM --load PROGRAM --cache DIRECTORY --route A,B,... [--moves N] [--cpus N] [--irqchip MODE]
                  [--pause-only]

Boots Debian's cloud kernel on the first accelerator of the route with a virtio disk and network. tests/guest/moves/load.cpp
runs in it: vectors and x87 with their sums, timers, clocks, disk and network traffic, all checked. Meanwhile the machine is
stopped by husk's gdb server, carried to the next accelerator of the route (over and over), and goes on, N times; with
--pause-only it is only stopped and goes on. In the end the guest tells whether anything was wrong, and its clock is compared
with the host's. Exit status 0: passed; 77: something is missing.
"""
import argparse
import os
import pathlib
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

TOP = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(TOP / "tests/guest/virtio"), str(TOP / "tests/kvm")]
import stop_and_go
import test_virtio

SKIPPED = 77


class EchoServer:
    """Sends back what the guest sends, and keeps what time it was there and here."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.times, self.over, self.error = [], threading.Event(), None
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        try:
            peer, _ = self.listener.accept()
            with peer:
                data = b""
                while True:
                    while len(data) < 16 or len(data) < struct.unpack_from("<I", data)[0]:
                        got = peer.recv(65536)
                        if not got:
                            return
                        data += got
                    length, when = struct.unpack_from("<I4xq", data)
                    self.times.append((time.monotonic(), when / 1e9))
                    peer.sendall(data[:length])
                    data = data[length:]
                    # Between two blocks, so that the guest loses nothing. What it sends by then is taken: closing with that
                    # unread would reset the connection, which the guest takes for a fault.
                    if self.over.is_set() and not data:
                        peer.shutdown(socket.SHUT_WR)
                        while peer.recv(65536):
                            pass
                        return
        except OSError as error:
            self.error = error


class Monitor(stop_and_go.Gdb):
    """gdb's "monitor" commands (GDB manual, qRcmd)."""

    def command(self, line):
        answer = self.ask("qRcmd," + line.encode().hex())
        return bytes.fromhex(answer).decode()


class Run:
    def __init__(self, options, directory):
        self.options, self.stopped, self.longest, self.where = options, 0.0, 0.0, options.route[0]
        self.gdb = None
        self.log = os.path.join(directory, "log")
        self.gdb_path = os.path.join(directory, "gdb")
        disk = os.path.join(directory, "disk")
        with open(disk, "wb") as file:
            file.truncate(16 << 20)
        self.server = EchoServer()
        test_virtio.CACHE = options.cache
        script = ("ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0\n"
                  f"/bin/load 10.0.2.2 {self.server.port} /dev/vda\n"
                  "echo KERNEL-SAID $(dmesg | grep -iE 'soft lockup|rcu.*stall|Oops|unstable|BUG:|I/O error|lost' |"
                  " grep -v 'TSCs unsynchronized') END")
        initrd = os.path.join(directory, "initrd")
        with open(initrd, "wb") as file:
            file.write(test_virtio.newc("bin", 0o040755) +
                       test_virtio.newc("bin/load", 0o100755, pathlib.Path(options.load).read_bytes()) +
                       test_virtio.newc("TRAILER!!!", 0))
            file.write(test_virtio.make_initramfs(script))
        line = [options.husk, "run", str(options.cache / "cloud/vmlinuz"), "--initrd", initrd,
                "--accel", options.route[0], "--cpu", options.cpu, "--cpus", str(options.cpus), "-m", "256M", "--append", "quiet", "--net", "user",
                "--disk", disk, "--timeout", str(options.timeout), "--gdb", f"unix:{self.gdb_path}"]
        if options.irqchip:
            line += ["--kernel-irqchip", options.irqchip]
        self.out = open(self.log, "wb")
        self.husk = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=self.out, stderr=subprocess.STDOUT)

    def said(self):
        with open(self.log, "rb") as file:
            return file.read().decode("utf-8", "replace")

    def wait_for(self, holds, what, seconds):
        end = time.monotonic() + seconds
        while not holds():
            if self.husk.poll() is not None:
                raise RuntimeError(f"husk ended before {what}")
            if self.server.error:
                raise RuntimeError(f"the network failed before {what}: {self.server.error}")
            if time.monotonic() > end:
                raise RuntimeError(f"{what} did not come in {seconds} s")
            time.sleep(0.02)

    def traffic(self, more):
        wanted = len(self.server.times) + more
        self.wait_for(lambda: len(self.server.times) >= wanted, f"network traffic on {self.where}", self.options.patience)

    def stop_for(self, gdb, work):
        begin = time.monotonic()
        gdb.interrupt()
        answer = gdb.receive()
        if answer[:1] in ("W", "X"):
            raise RuntimeError("the guest ended")
        work()
        gdb.send("c")
        took = time.monotonic() - begin
        self.stopped += took
        self.longest = max(self.longest, took)

    def move(self):
        options = self.options
        gdb = self.gdb = Monitor(self.gdb_path)
        begin = time.monotonic()
        gdb.ask("?")
        gdb.send("c")
        self.stopped += time.monotonic() - begin
        where = 0
        for number in range(options.moves):
            time.sleep(random.uniform(0.02, 0.3))
            # What came over the network since the last move was sent by the accelerator that runs now.
            if not options.pause_only:
                self.traffic(2)
            where = (where + 1) % len(options.route)

            def work():
                if options.pause_only:
                    return
                said = gdb.command("accelerator " + options.route[where])
                if said != f"the machine runs on {options.route[where]} now\n":
                    raise RuntimeError(f"move {number} to {options.route[where]}: {said}")
                self.where = f"{options.route[where]} after {number + 1} moves"
            self.stop_for(gdb, work)
        self.traffic(3)
        begin = time.monotonic()
        gdb.interrupt()
        gdb.receive()
        gdb.send("D")
        self.stopped += time.monotonic() - begin

    def whereabouts(self):
        """Where the first CPU is when nothing comes any more: some looks, by RIP and RFLAGS."""
        looks = []
        try:
            for _ in range(6):
                self.gdb.interrupt()
                self.gdb.receive()
                registers = bytes.fromhex(self.gdb.ask("g"))
                looks.append("%x/%x" % struct.unpack_from("<QI", registers, 16 * 8))
                self.gdb.send("c")
                time.sleep(0.3)
        except (OSError, EOFError, ValueError, struct.error) as error:
            looks.append(f"no more: {error}")
        return " ".join(looks)

    def clock_error(self):
        """How much the guest's clock gained on the host's, as far as the stops do not explain it."""
        (host0, guest0), (host1, guest1) = self.server.times[0], self.server.times[-1]
        host, guest = host1 - host0, guest1 - guest0
        if guest > host:
            return guest - host
        return min(guest - (host - self.stopped), 0.0)


def main():
    parser = argparse.ArgumentParser(description="Carries a running Linux from accelerator to accelerator.")
    parser.add_argument("--husk", required=True)
    parser.add_argument("--load", required=True)
    parser.add_argument("--cache", type=pathlib.Path, default=TOP / ".cache/guest")
    parser.add_argument("--route", default="jit,interp")
    parser.add_argument("--cpu", default="max")
    parser.add_argument("--irqchip", metavar="MODE", help="whose the interrupt controllers are on KVM")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--moves", type=int, default=3)
    parser.add_argument("--pause-only", action="store_true")
    parser.add_argument("--timeout", type=int, default=280)
    parser.add_argument("--latest", type=int, default=5000, metavar="MS", help="how late a timer may come")
    parser.add_argument("--patience", type=int, default=60, help="seconds in which the guest must send something")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.route = options.route.split(",")
    random.seed(options.seed)
    if not (options.cache / "cloud/vmlinuz").exists():
        print("SKIPPED: no Debian kernel; run tools/fetch-guest")
        return SKIPPED
    failure, status = None, None
    with tempfile.TemporaryDirectory() as directory:
        run = Run(options, directory)
        try:
            run.wait_for(lambda: len(run.server.times) > 2, "the guest's load", 150)
            run.move()
            run.server.over.set()
            status = run.husk.wait(timeout=120)
        except (RuntimeError, EOFError, ConnectionError, subprocess.TimeoutExpired) as error:
            failure = f"{type(error).__name__}: {error} (husk: {run.husk.poll()})"
            if run.husk.poll() is None and run.gdb:
                failure += f"; CPU 0 at {run.whereabouts()}"
        finally:
            if run.husk.poll() is None:
                run.husk.kill()
                run.husk.wait()
        said = run.said()
    found = re.search(r"LOAD avx2=(\d) sums=(\d+) ticks=(\d+) latest_ms=(\d+) blocks=(\d+) echoes=(\d+) bad=(\d+) END", said)
    if not failure:
        if status != 0 or not found:
            failure = f"the guest did not end well (status {status})"
        elif found[7] != "0":
            failure = "the guest found faults"
        elif int(found[2]) < 3 or int(found[3]) < 20 or int(found[5]) < 10:
            failure = "the guest did too little"
        elif int(found[4]) > options.latest:
            failure = "a timer came too late"
        elif "KERNEL-SAID END" not in said:
            failure = "the guest's kernel complained"
        elif abs(run.clock_error()) > 0.5:
            failure = f"the guest's clock is wrong by {run.clock_error():.3f} s"
    what = "stops" if options.pause_only else f"moves along {' > '.join(options.route)}"
    print(f"{options.moves} {what}, {options.cpus} CPU(s): {'FAILED: ' + failure if failure else 'passed'}")
    if found:
        print(f"  {found[0]}\n  stopped {run.stopped:.2f} s in all, {run.longest:.3f} s at most; clock error "
              f"{run.clock_error():+.3f} s")
    if failure:
        print(said[-4000:])
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
