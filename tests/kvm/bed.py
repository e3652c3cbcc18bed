#!/usr/bin/env python3
# husk: runs a command on a machine with a true /dev/kvm, emulated by QEMU where the host has none
"""The nested bed: runs a command where there is a true /dev/kvm.

    bed.py [options] COMMAND [ARGUMENT...]

By --machine PROGRAM the outer machine is that husk with its own CPU, and `husk run -- COMMAND` shows the files. Without:

Starts qemu-system-x86_64 with TCG, whose CPU model "max" has AMD's SVM with nested paging, boots Debian's generic kernel
with kvm-amd in it, shows it this host's file tree read-only, and runs COMMAND there in the current directory with the
current PATH. What the command prints is printed, and its exit status is returned. Inside, /dev/shm is writable (and
TMPDIR says so), and /sys/kernel/debug is mounted.

The kernel and busybox come from tools/fetch-guest. Exit status 124: the time was up; 125: the bed itself failed.
"""
import argparse
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
# In the order in which they are to be loaded, without what they need: dependencies() finds that.
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "tun", "kvm-amd")
TIME_UP, BROKEN = 124, 125

INIT = """#!/bin/busybox sh
PATH=/bin; export PATH
/bin/busybox mkdir -p /proc /sys /dev /root /bed
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules/order); do /bin/busybox insmod /modules/$module || echo "bed: no $module"; done
o=trans=virtio,version=9p2000.L,msize=262144
/bin/busybox mount -t 9p -o $o,cache=none,rw bed /bed || { echo "bed: no share"; /bin/busybox poweroff -f; }
/bin/busybox mount -t 9p -o $o,cache=loose,ro hostroot /root || { echo "bed: no root"; /bin/busybox poweroff -f; }
/bin/busybox mount -t proc proc /root/proc
/bin/busybox mount -t sysfs sysfs /root/sys
/bin/busybox mount -t devtmpfs dev /root/dev
/bin/busybox mkdir -p /root/dev/shm /root/dev/pts
/bin/busybox mount -t tmpfs tmpfs /root/dev/shm
/bin/busybox mount -t devpts devpts /root/dev/pts
/bin/busybox mount -t debugfs debugfs /root/sys/kernel/debug
/bin/busybox ip link set lo up
/bin/busybox cp /bed/command /bed/hold_vm.py /root/dev/shm/
/bin/busybox chroot /root /usr/bin/python3 /dev/shm/hold_vm.py </dev/null >/dev/null 2>&1 &
for i in $(/bin/busybox seq 100); do [ -e /root/dev/shm/vm_held ] && break; /bin/busybox usleep 100000; done
/bin/busybox chroot /root /bin/sh /dev/shm/command >/bed/output 2>&1 </dev/null
echo $? >/bed/status.new
/bin/busybox mv /bed/status.new /bed/status
/bin/busybox poweroff -f
"""

# Linux rewrites a jump in its scheduler when the first virtual machine appears and when the last one goes (the static keys
# preempt_notifier_key and kvm_has_noapic_vcpu). QEMU 7.2 may translate the breakpoint that stands there meanwhile and
# keep the translation after the breakpoint is gone: both CPUs then take it for ever. One more machine, which stays for
# as long as the bed does, makes that happen once instead of at each start of husk.
HOLD_VM = """\
import fcntl, os, signal
KVM_CREATE_VM, KVM_CREATE_VCPU = 0xAE01, 0xAE41
machine = fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR), KVM_CREATE_VM, 0)
fcntl.ioctl(machine, KVM_CREATE_VCPU, 0)
open("/dev/shm/vm_held", "w").close()
signal.pause()
"""


class BedError(Exception):
    pass


class OuterCrash(BedError):
    """QEMU 7.2 changes an interrupt without its lock, and aborts, when a guest's guest writes CR8 while KVM waits for an
    interrupt window."""


CR8_CRASH = "tcg_handle_interrupt: assertion failed"


def module_files(tree):
    return {path.stem.replace("_", "-"): path for path in tree.rglob("*.ko")}


def module_needs(path):
    """The names in the `depends=` line of a module's .modinfo section."""
    raw = path.read_bytes()
    at = raw.find(b"\0depends=")
    if at < 0:
        return []
    names = raw[at + 9:raw.index(b"\0", at + 9)].decode()
    return [name.replace("_", "-") for name in names.split(",") if name]


def dependencies(tree, wanted):
    """Paths of the wanted modules and of all that they need, each after what it needs. Built-in ones are left out."""
    files, order = module_files(tree), []

    def add(name):
        path = files.get(name.replace("_", "-"))
        if path is None or path in order:
            return
        for need in module_needs(path):
            add(need)
        order.append(path)

    for name in wanted:
        add(name)
    return order


def cpio_entry(name, mode, data=b"", device=(0, 0), inode=[0]):
    """One entry of a "newc" archive (Linux, Documentation/driver-api/early-userspace/buffer-format.rst)."""
    inode[0] += 1
    fields = [inode[0], mode, 0, 0, 1, 0, len(data), 0, 0, device[0], device[1], len(name) + 1, 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    head += b"\0" * (-len(head) % 4)
    return head + data + b"\0" * (-len(data) % 4)


def write_initramfs(path, cache):
    entries = [cpio_entry("bin", 0o040755), cpio_entry("dev", 0o040755), cpio_entry("modules", 0o040755),
               cpio_entry("dev/console", 0o020600, device=(5, 1)),
               cpio_entry("bin/busybox", 0o100755, (cache / "busybox").read_bytes()),
               cpio_entry("init", 0o100755, INIT.encode())]
    modules = dependencies(cache / "generic/modules", MODULES)
    for module in modules:
        entries.append(cpio_entry("modules/" + module.name, 0o100644, module.read_bytes()))
    entries.append(cpio_entry("modules/order", 0o100644, "\n".join(m.name for m in modules).encode()))
    entries.append(cpio_entry("TRAILER!!!", 0))
    path.write_bytes(b"".join(entries))


def guest_cache(given):
    for directory in [given] if given else [os.environ.get("HUSK_GUEST_CACHE"), TOP / ".cache/guest"]:
        if directory and (pathlib.Path(directory) / "generic/vmlinuz").exists():
            return pathlib.Path(directory)
    raise BedError("no Debian kernel: run tools/fetch-guest first")


def tsc_khz():
    """What TCG's time-stamp counter counts: the host's. A kernel that measures it on a busy host gets it wrong several
    times over, and with it every time-out."""
    if os.uname().machine not in ("x86_64", "i686"):
        return 1_000_000  # nanoseconds
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("cpu MHz"):
            return round(float(line.split(":")[1]) * 1000)
    return None


def command_script(options):
    lines = [f"export PATH={shlex.quote(os.environ.get('PATH', '/usr/bin:/bin'))}",
             "export HOME=/dev/shm TMPDIR=/dev/shm LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 HUSK_IN_BED=1"]
    for setting in options.env:
        name, _, value = setting.partition("=")
        lines.append(f"export {name}={shlex.quote(value)}")
    lines += [f"cd {shlex.quote(os.getcwd())} || exit {BROKEN}", "exec " + shlex.join(options.command)]
    return "\n".join(lines) + "\n"


class Tail:
    """Copies what is added to a file to standard output."""

    def __init__(self, path):
        self.path, self.at = path, 0

    def copy(self):
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self.at)
            data = file.read()
        self.at += len(data)
        sys.stdout.buffer.write(data)
        sys.stdout.flush()


HUSK_INIT = """\
for module in {modules}; do {busybox} insmod $module || echo "bed: no $module"; done
[ -e /dev/kvm ] || exit {broken}
{busybox} mkdir -p /dev/shm
grep -q " /dev/shm " /proc/mounts || {busybox} mount -t tmpfs tmpfs /dev/shm
grep -q " /sys/kernel/debug " /proc/mounts || {busybox} mount -t debugfs debugfs /sys/kernel/debug
{busybox} cp {directory}/command /dev/shm/command
exec /bin/sh /dev/shm/command
"""


def run_on_husk(options):
    """The same with husk as the outer machine: what the command changes of the host's files stays in its guest."""
    husk = shutil.which(options.machine)
    if not husk:
        raise BedError(f"{options.machine} is missing: build husk first")
    cache = guest_cache(options.cache).resolve()
    modules = [module for module in MODULES if module in ("tun", "kvm-amd")]
    with tempfile.TemporaryDirectory(prefix="husk-bed-") as directory:
        (pathlib.Path(directory) / "command").write_text(command_script(options))
        begin = pathlib.Path(directory) / "begin"
        begin.write_text(HUSK_INIT.format(
            modules=" ".join(shlex.quote(str(path)) for path in dependencies(cache / "generic/modules", modules)),
            busybox=shlex.quote(str(cache / "busybox")), directory=shlex.quote(directory), broken=BROKEN))
        line = [husk, "run", str(cache / "generic/vmlinuz"), "--accel", "jit", "--cpus", str(options.cpus), "-m",
                f"{options.memory}M", "--modules", str(cache / "generic/modules"), "--root-user", "--append",
                "mitigations=off " + options.append, "--timeout", f"{options.timeout:g}",
                # The guest's /tmp is its own.
                "--share", f"{directory}:{directory}:ro"]
        if options.verbose:
            line.append("--verbose")
        start = time.monotonic()
        status = subprocess.run(line + ["--", "/bin/sh", str(begin)], stdin=subprocess.DEVNULL).returncode
        if options.verbose:
            print(f"bed: {time.monotonic() - start:.1f} s", file=sys.stderr)
        return status


def run(options):
    if options.machine:
        return run_on_husk(options)
    qemu = shutil.which(options.qemu)
    if not qemu:
        raise BedError(f"{options.qemu} is missing: sudo apt install qemu-system-x86")
    cache = guest_cache(options.cache)
    with tempfile.TemporaryDirectory(prefix="husk-bed-") as directory:
        share = pathlib.Path(directory) / "share"
        share.mkdir()
        (share / "command").write_text(command_script(options))
        (share / "hold_vm.py").write_text(HOLD_VM)
        initramfs, console = pathlib.Path(directory) / "initramfs", pathlib.Path(directory) / "console"
        write_initramfs(initramfs, cache)
        kernel_line = ["console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable no_timer_check"]
        if khz := tsc_khz():
            kernel_line.append(f"tsc_early_khz={khz}")
        line = [qemu, "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(options.cpus),
                "-m", str(options.memory), "-display", "none", "-nodefaults", "-no-reboot",
                "-serial", f"file:{console}", "-kernel", str(cache / "generic/vmlinuz"), "-initrd", str(initramfs),
                "-append", " ".join(kernel_line + [options.append]),
                "-virtfs", "local,path=/,mount_tag=hostroot,security_model=none,readonly=on,multidevs=remap",
                "-virtfs", f"local,path={share},mount_tag=bed,security_model=none"]
        tail, begin = Tail(share / "output"), time.monotonic()
        machine = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            late = False
            while machine.poll() is None and not late:
                tail.copy()
                time.sleep(0.1)
                late = time.monotonic() - begin > options.timeout
        finally:
            if machine.poll() is None:
                machine.kill()
            said = machine.communicate()[0]
        tail.copy()
        status = share / "status"
        text = console.read_text("utf-8", "replace") if console.exists() else ""
        if options.console:
            pathlib.Path(options.console).write_text(text)
        if options.verbose:
            sys.stderr.write(text)
            print(f"bed: {time.monotonic() - begin:.1f} s", file=sys.stderr)
        if status.exists():
            return int(status.read_text())
        sys.stderr.write(said.decode("utf-8", "replace") + "\n".join(text.splitlines()[-40:]) + "\n")
        if late:
            print(f"bed: the time of {options.timeout:g} s was up", file=sys.stderr)
            return TIME_UP
        if CR8_CRASH in said.decode("utf-8", "replace"):
            raise OuterCrash("QEMU's own fault stopped the outer machine")
        raise BedError("the outer machine ended without a status")


def main():
    parser = argparse.ArgumentParser(description="Runs a command where there is a true /dev/kvm.")
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--machine", metavar="PROGRAM", help="a husk to be the outer machine in QEMU's place")
    parser.add_argument("--cache", help="where tools/fetch-guest has put the kernels")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--memory", type=int, default=3072, metavar="MIB")
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--append", default="", help="more for the outer kernel's command line")
    parser.add_argument("--console", help="a file for what the outer kernel printed")
    parser.add_argument("--verbose", action="store_true", help="print it, and the time")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if not options.command:
        parser.error("a command is needed")
    try:
        for _ in range(2):
            try:
                return run(options)
            except OuterCrash as crash:
                print(f"bed: {crash}; once more", file=sys.stderr)
        return run(options)
    except BedError as error:
        print(f"bed: {error}", file=sys.stderr)
        return BROKEN


if __name__ == "__main__":
    sys.exit(main())
