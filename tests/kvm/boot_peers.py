#!/usr/bin/env python3
# husk: boot time and exits of husk, QEMU and kvmtool on KVM, side by side in the nested bed
"""Boots Debian's cloud kernel to its init with each VMM in turn, and counts.

    bed.py --timeout 900 tests/kvm/boot_peers.py --husk PROGRAM [--qemu PROGRAM] [--kvmtool PROGRAM] [--rounds N] [--disk]

Prints for each boot the time until init runs (of the host) and KVM's counts of exits until then. All get one CPU, 512 MiB
and the same kernel, initramfs and command line. With --disk the same for 2000 reads of 4 KiB each from a virtio disk.
"""
import argparse
import pathlib
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guest/virtio")]
import bed  # noqa: E402
import test_virtio  # noqa: E402

COUNTS = ("exits", "io_exits", "mmio_exits", "halt_exits", "irq_window_exits", "signal_exits", "irq_injections")
MARK = b"INIT RUNS"
INIT = """#!/bin/busybox sh
echo INIT RUNS
/bin/busybox sleep 3
/bin/busybox poweroff -f
"""
LINE = "console=ttyS0 quiet panic=-1"
# Between the marks and the work the counts are read.
DISK_MARKS = (b"DISK BEGINS", b"DISK ENDS")
DISK = """echo 4 >/sys/block/vda/queue/read_ahead_kb
echo DISK BEGINS; sleep 2
dd if=/dev/vda of=/dev/null bs=4096 count=2000
echo DISK ENDS; sleep 5"""


def initramfs(path, cache):
    path.write_bytes(b"".join([bed.cpio_entry("bin", 0o040755), bed.cpio_entry("dev", 0o040755),
                               bed.cpio_entry("dev/console", 0o020600, device=(5, 1)),
                               bed.cpio_entry("bin/busybox", 0o100755, (cache / "busybox").read_bytes()),
                               bed.cpio_entry("init", 0o100755, INIT.encode()), bed.cpio_entry("TRAILER!!!", 0)]))


def counts():
    root = pathlib.Path("/sys/kernel/debug/kvm")
    return {name: int((root / name).read_text()) for name in COUNTS if (root / name).exists()}


def boot(line, marks):
    """(seconds, counts) between the marks, or from the start until the only one; or None."""
    begin = time.monotonic()
    vmm = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = b""
    seen = [(begin, {})] if len(marks) == 1 else []
    left = list(marks)
    try:
        while left and (chunk := vmm.stdout.read1(4096)):
            said += chunk
            while left and left[0] in said:
                seen.append((time.monotonic(), counts()))
                left.pop(0)
            if time.monotonic() - begin > 120:
                break
    finally:
        vmm.kill()
        vmm.wait()
    if left:
        print(said.decode("utf-8", "replace")[-1500:])
        return None
    (first, before), (last, after) = seen
    return last - first, {name: count - before.get(name, 0) for name, count in after.items()}


def main():
    parser = argparse.ArgumentParser(description="Boots with each VMM and counts.")
    parser.add_argument("--husk", required=True)
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--kvmtool")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="a regular expression: which of them")
    parser.add_argument("--disk", action="store_true", help="reads from a disk, and no boots")
    parser.add_argument("--cpu", default="max,-xsave", help="husk's CPU model")
    options = parser.parse_args()
    cache = bed.guest_cache(None)
    kernel, initrd = str(cache / "cloud/vmlinuz"), "/dev/shm/initrd"
    marks = DISK_MARKS if options.disk else (MARK,)
    disk = "/dev/shm/disk"
    if options.disk:
        test_virtio.CACHE = cache
        pathlib.Path(initrd).write_bytes(test_virtio.make_initramfs(DISK))
        with open(disk, "wb") as file:
            file.truncate(16 << 20)
    else:
        initramfs(pathlib.Path(initrd), cache)
    husk_disk = ["--disk", disk] if options.disk else []
    qemu_disk = ["-drive", f"file={disk},format=raw,if=none,id=d", "-device", "virtio-blk-pci,drive=d"] if options.disk else []
    lines = {
        f"husk {mode}": [options.husk, "run", kernel, "--initrd", initrd, "--accel", "kvm", "--kernel-irqchip", mode,
                         "--cpu", options.cpu, "-m", "512M", "--append", LINE, *husk_disk] for mode in ("off", "split", "on")
    } | {
        "qemu q35": [options.qemu, "-machine", "q35", "-accel", "kvm", "-cpu", "host,-xsave", "-m", "512", "-nodefaults",
                     "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", kernel, "-initrd", initrd, "-append",
                     LINE, *qemu_disk],
        "qemu microvm": [options.qemu, "-machine", "microvm,acpi=off", "-accel", "kvm", "-cpu", "host,-xsave", "-m", "512",
                         "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", kernel, "-initrd",
                         initrd, "-append", LINE],
    }
    if options.kvmtool:
        lines["kvmtool"] = [options.kvmtool, "run", "-k", kernel, "-i", initrd, "-m", "512", "-c", "1", "-p", LINE,
                            "--console", "serial"]
    if options.disk:  # these two have no PCI bus for it, or another way to say so
        lines.pop("qemu microvm")
        lines.pop("kvmtool", None)
    for _ in range(options.rounds):
        for name, line in lines.items():
            if options.only and not re.fullmatch(options.only, name):
                continue
            result = boot(line, marks)
            if result:
                print(f"{name}: {result[0]:.2f} s " + " ".join(f"{key}={value}" for key, value in result[1].items()),
                      flush=True)
            else:
                print(f"{name}: it did not come to its mark", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
