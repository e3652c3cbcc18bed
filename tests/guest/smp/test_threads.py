#!/usr/bin/env python3
# husk: boots Debian's kernel with threads.cpp as its only process, on several CPUs, and checks what that says
"""usage: test_threads.py HUSK CACHE PROGRAM [--cpus 2,4] [--loops N] [--timeout SECONDS]"""
import argparse
import pathlib
import re
import subprocess
import sys
import tempfile


def cpio(files):
    """An initramfs (newc) of {name: (mode, content)}."""
    out = b""
    for number, (name, (mode, content)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))], 1):
        minor = 1 if name == "dev/console" else 0
        major = 5 if name == "dev/console" else 0
        fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name) + 1, 0]
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + content
        out += b"\0" * (-len(out) % 4)
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("husk")
    parser.add_argument("cache", type=pathlib.Path)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--cpus", default="2,4")
    parser.add_argument("--loops", type=int, default=1)
    parser.add_argument("--timeout", type=int, default=200)
    options = parser.parse_args()
    good = True
    with tempfile.NamedTemporaryFile(suffix=".cpio") as initrd:
        initrd.write(cpio({"dev": (0o40755, b""), "dev/console": (0o20600, b""),
                           "init": (0o100755, options.program.read_bytes())}))
        initrd.flush()
        for cpus in options.cpus.split(","):
            done = subprocess.run(
                [options.husk, "run", str(options.cache / "cloud" / "vmlinuz"), "--initrd", initrd.name, "--accel", "jit",
                 "--cpus", cpus, "--append", f"quiet loops={options.loops}", "--timeout", str(options.timeout)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            text = done.stdout.decode(errors="replace")
            passed = len(re.findall(r"^ok ", text, re.MULTILINE))
            fine = done.returncode == 0 and "done, 0 failures" in text and "FAIL" not in text and "BUG:" not in text
            print(f"{cpus} CPUs: {passed} passed, exit status {done.returncode}")
            if not fine:
                print(text[-4000:])
            good &= fine
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
