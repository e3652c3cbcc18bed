#!/usr/bin/env python3
# husk: stops a booting guest again and again and writes its CPU state back, as a debugger can
"""Stops and state changes under a running Linux.

    stop_and_go.py --husk PROGRAM --kernel FILE [--accel NAME] [--cpu MODEL] [--cpus N] [--stops N]

Boots the kernel with husk's gdb server, and N times stops the machine, reads the registers of each CPU, writes them back
(which takes the CPU's whole state out of the accelerator and puts it in again), and lets it go on. The guest then checks
a sum and its clock. Exit status 0: all went well.
"""
import argparse
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time

# Linux takes the TSCs of several AMD CPUs for unsynchronized unless the model has a constant TSC; that is no fault.
SCRIPT = ("i=0; while [ $i -lt 60 ]; do echo SUM $(seq 1 2000 | md5sum | cut -c1-8); i=$((i+1)); done | sort | uniq -c; "
          "echo BAD $(dmesg | grep -E 'soft lockup|rcu.*stall|Oops|unstable|BUG:' | grep -v 'TSCs unsynchronized') END")


class Gdb:
    """The GDB remote serial protocol, as much as is needed (GDB manual, appendix E)."""

    def __init__(self, path):
        for _ in range(1200):
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.connect(path)
                break
            except OSError:
                time.sleep(0.05)
        else:
            raise RuntimeError("no gdb server")
        self.socket.settimeout(60)
        self.buffer = b""

    def send(self, text):
        raw = text.encode()
        self.socket.sendall(b"$" + raw + b"#%02x" % (sum(raw) & 0xFF))

    def interrupt(self):
        self.socket.sendall(b"\x03")

    def receive(self):
        while True:
            packet = re.search(rb"\$([^#]*)#..", self.buffer)
            if packet:
                self.buffer = self.buffer[packet.end():]
                self.socket.sendall(b"+")
                return packet[1].decode()
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self.buffer += data

    def ask(self, text):
        self.send(text)
        return self.receive()


def main():
    parser = argparse.ArgumentParser(description="Stops a booting guest again and again.")
    parser.add_argument("--husk", required=True)
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--accel", default="kvm")
    parser.add_argument("--cpu", default="max")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--stops", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as directory:
        path, log = os.path.join(directory, "gdb"), os.path.join(directory, "log")
        with open(log, "wb") as out:
            husk = subprocess.Popen([options.husk, "run", options.kernel, "--accel", options.accel, "--cpu", options.cpu,
                                     "--cpus", str(options.cpus), "-m", "512M", "--append", "quiet", "--timeout", "200",
                                     "--gdb", f"unix:{path}", "--exec", SCRIPT],
                                    stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        stops = 0
        try:
            gdb = Gdb(path)
            gdb.ask("?")
            while stops < options.stops:
                for cpu in range(1, options.cpus + 1):
                    if gdb.ask(f"Hg{cpu:x}") != "OK":
                        raise RuntimeError(f"no CPU {cpu}")
                    registers = gdb.ask("g")
                    if gdb.ask("G" + registers) != "OK":
                        raise RuntimeError("the registers were not taken back")
                    if gdb.ask("g") != registers:
                        raise RuntimeError("registers changed while stopped")
                stops += 1
                gdb.send("c")
                time.sleep(random.uniform(0.01, 0.15))
                gdb.interrupt()
                if gdb.receive()[:1] in ("W", "X"):
                    break
            gdb.send("D")
        except (EOFError, ConnectionError):
            pass  # the guest came to its end
        status = husk.wait(timeout=250)
        said = open(log, "rb").read().decode("utf-8", "replace")
    good = status == 0 and "60 SUM ea4d0a24" in said and "BAD END" in said and stops > 10
    print(f"{stops} stops with {options.cpus} CPUs on {options.accel}: {'passed' if good else 'FAILED'}")
    if not good:
        print(f"exit status {status}\n" + said[-3000:])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
