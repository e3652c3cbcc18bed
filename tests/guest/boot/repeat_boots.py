#!/usr/bin/env python3
# husk: boots a kernel many times with several numbers of CPUs, to find hangs and what happens once in a hundred times
"""Boots Debian's kernel again and again; each boot must reach its shell, share work among its CPUs and power off.

    repeat_boots.py HUSK CACHE [--cpus 1,2,4,8] [--times 50] [--flavour cloud|generic] [--timeout SECONDS] [--keep DIR]

The numbers of CPUs take turns. What a boot that fails has printed is left in DIR. Exit status 0: all was well.
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import time

SCRIPT = ("for i in $(seq 4); do (seq 1 500 | awk '{s+=$1} END {print \"sum\", s}') & done; wait; "
          "echo cpus $(nproc); dmesg | grep -E 'BUG:|Oops|Call Trace|rcu.*stall|soft lockup|WARNING:'")
BAD = ("BUG:", "Oops", "Call Trace", "stall", "lockup", "WARNING:", "Kernel panic")


def boot(options, cpus):
    """Returns what is wrong with one boot ("" if nothing), how long it took, and what it printed."""
    command = [options.husk, "run", str(options.cache / options.flavour / "vmlinuz"), "--accel", options.accel,
               "--cpus", str(cpus), "--timeout", str(options.timeout), "--exec", SCRIPT]
    start = time.monotonic()
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=options.timeout + 60, env=dict(os.environ, HUSK_GUESTS=str(options.cache)))
    except subprocess.TimeoutExpired as expired:
        return "husk did not end at its time-out", time.monotonic() - start, (expired.stdout or b"").decode(errors="replace")
    text = done.stdout.decode(errors="replace")
    seconds = time.monotonic() - start
    if done.returncode == 124:
        return "hangs", seconds, text
    if done.returncode != 0:
        return f"exit status {done.returncode}", seconds, text
    if f"cpus {cpus}" not in text or text.count("sum 125250") != 4:
        return "its work is not done", seconds, text
    said = [word for word in BAD if word in text.replace(SCRIPT, "")]
    return f"the kernel says {said[0]}" if said else "", seconds, text


def main():
    parser = argparse.ArgumentParser(description="Boots a kernel again and again.")
    parser.add_argument("husk")
    parser.add_argument("cache", type=pathlib.Path, help="what tools/fetch-guest has filled")
    parser.add_argument("--cpus", default="1,2,4,8")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--flavour", default="cloud")
    parser.add_argument("--accel", default="jit")
    parser.add_argument("--timeout", type=int, default=120)
    parser.add_argument("--keep", type=pathlib.Path, default=pathlib.Path("."))
    options = parser.parse_args()
    counts = [int(number) for number in options.cpus.split(",")]
    taken = {cpus: [] for cpus in counts}
    failed = {cpus: 0 for cpus in counts}
    for turn in range(1, options.times + 1):
        for cpus in counts:
            wrong, seconds, text = boot(options, cpus)
            taken[cpus].append(seconds)
            if wrong:
                failed[cpus] += 1
                name = options.keep / f"boot-{cpus}cpus-{turn}.txt"
                name.write_text(text)
                print(f"turn {turn}, {cpus} CPUs: {wrong} after {seconds:.1f} s, see {name}", flush=True)
    for cpus in counts:
        print(f"{cpus} CPUs: {len(taken[cpus])} boots, {failed[cpus]} failed; median {statistics.median(taken[cpus]):.2f} s, "
              f"longest {max(taken[cpus]):.2f} s")
    return 1 if any(failed.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
