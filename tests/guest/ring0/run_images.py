#!/usr/bin/env python3
# husk: runs the ring-0 test images on husk or on another machine and compares with differences.txt
"""Runs ring-0 test images.

    run_images.py --machine PROGRAM [--on husk|husk-kvm|qemu|kvm] [--differences FILE] [--cpus N] [--append WORDS]
                  [--repeat N] [--attempts N] IMAGE...

Each image prints "ok NAME" or "FAIL NAME got .. want .." on port 0xE9, ends with "done" and leaves through port 0xF4.
A FAIL is forgiven only where differences.txt lists it for that machine, and a listed one that passes is reported too, so
that the list cannot go stale. Exit status 0: every image as expected; 1: not; 2: wrong use.
"""
import argparse
import pathlib
import subprocess
import sys


def differences(path, machine):
    """Returns {(image, check)} listed for the machine. A line is `machine | image | check | reason`."""
    listed = set()
    if not path.exists():
        return listed
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split("|")]
        if len(fields) != 4 or not all(fields):
            sys.exit(f"{path}:{number}: a line is 'machine | image | check | reason'")
        if fields[0] == machine:
            listed.add((fields[1], fields[2]))
    return listed


def command(program, machine, image, options):
    cpu = options.cpu
    line = [program]
    if machine.startswith("husk"):
        line += ["qemu"]
    line += ["-kernel", str(image), "-m", "64", "-display", "none", "-no-reboot", "-serial", "none", "-monitor", "none",
             "-nodefaults", "-smp", str(options.cpus), "-append", options.append, "-debugcon", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
    if machine == "kvm":
        line += ["-accel", "kvm", "-cpu", "host"]
    elif machine == "husk-interp":
        line += ["-accel", "interp", "-cpu", cpu]
    elif machine == "husk-kvm":
        line += ["-accel", "kvm", "-cpu", cpu]
    else:
        # With several CPUs, QEMU's in parallel as husk's are.
        line += ["-accel", "tcg,thread=multi" if machine == "qemu" and options.cpus > 1 else "tcg", "-cpu", cpu]
    return line


def run(image, listed, options):
    """Runs one image; returns the complaints about it."""
    program, machine, timeout, verbose = options.machine, options.on, options.timeout, options.verbose
    name = image.stem
    if (name, "(end)") in listed:
        timeout = min(timeout, 10)
    for attempt in range(options.attempts):
        try:
            result = subprocess.run(command(program, machine, image, options), stdin=subprocess.DEVNULL,
                                    capture_output=True, timeout=timeout)
            output, status, error = result.stdout, result.returncode, result.stderr
            break
        except subprocess.TimeoutExpired as expired:
            output, status, error = expired.stdout or b"", None, expired.stderr or b""
            print(f"    {name}: no end within {timeout:g} s, attempt {attempt + 1}")
    lines = output.decode("ascii", "replace").splitlines()
    if verbose:
        print("\n".join(lines))
    passed = [line[3:] for line in lines if line.startswith("ok ")]
    failed = [line[5:] for line in lines if line.startswith("FAIL ")]
    complaints = []
    explained = 0
    for line in failed:
        check = line.split(" got ")[0]
        if (name, check) in listed:
            explained += 1
        else:
            complaints.append(f"FAIL {line}")
    for check in sorted(check for image_name, check in listed if image_name == name and check in passed):
        complaints.append(f"listed as a difference, yet it passes: {check}")
    if status is None and (name, "(end)") in listed:
        pass
    elif status is None:
        complaints.append(f"no end; last line: {lines[-1] if lines else ''}")
    elif "done" not in lines and (name, "(end)") in listed:
        pass
    elif "done" not in lines:
        complaints.append(f"ended early (status {status}); last line: {lines[-1] if lines else ''}")
        complaints += error.decode("utf-8", "replace").splitlines()[:40]
    elif status != 1 + 2 * min(len(failed), 120):
        complaints.append(f"exit status {status} with {len(failed)} failed checks")
    for line in lines:
        if line.startswith("note "):
            print("   ", line[5:])
    print(f"{name} on {machine}: {len(passed)} passed, {len(failed)} failed, {explained} of them explained")
    return complaints


def main():
    parser = argparse.ArgumentParser(description="Runs ring-0 test images.")
    parser.add_argument("--machine", required=True, help="the husk or qemu-system-x86_64 program")
    parser.add_argument("--on", choices=("husk", "husk-interp", "husk-kvm", "qemu", "kvm"), default="husk")
    parser.add_argument("--differences", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parent / "differences.txt")
    parser.add_argument("--cpu", default="max", help="the CPU model, where it is emulated")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--append", default="", help="the image's command line: loops=N for the images of ../smp")
    parser.add_argument("--repeat", type=int, default=1, help="run all images so many times")
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("--attempts", type=int, default=1, help="run an image that comes to no end so many times")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("images", nargs="+", type=pathlib.Path)
    options = parser.parse_args()
    listed = differences(options.differences, options.on)
    if options.on.endswith("kvm"):
        # What KVM and the processor beneath it do seldom depends on who asks KVM.
        listed |= differences(options.differences, "any-kvm")
    good = True
    for image in options.images * options.repeat:
        for complaint in run(image, listed, options):
            print("   ", complaint)
            good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
