#!/usr/bin/env python3
# husk: drives edu and pci-testdev from Linux: BARs through sysfs, INTx through Linux' uio_pci_generic
"""usage: test_testdev.py HUSK CACHE [unittest arguments]. CACHE is what tools/fetch-guest has filled."""
import math
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

HUSK = CACHE = None
TIMEOUT = int(os.environ.get("HUSK_TEST_TIMEOUT", "240"))
PYTHON = shutil.which("python3", path="/usr/bin:/bin") or sys.executable

# What programs in the guest share. A ctypes integer over the mapping is one access of its own width.
COMMON = r"""
import ctypes, mmap, os, struct, sys, time
def find(vendor, device):
    for name in sorted(os.listdir("/sys/bus/pci/devices")):
        path = "/sys/bus/pci/devices/" + name
        if (open(path + "/vendor").read().strip(), open(path + "/device").read().strip()) == (vendor, device):
            return path
    sys.exit("there is no " + vendor + ":" + device)
def command(path, bits, clear=0):
    with open(path + "/config", "r+b", buffering=0) as config:
        config.seek(4)
        old, = struct.unpack("<H", config.read(2))
        config.seek(4)
        config.write(struct.pack("<H", (old | bits) & ~clear))
def bar(path, number):
    with open(f"{path}/resource{number}", "r+b", buffering=0) as file:
        return mmap.mmap(file.fileno(), os.fstat(file.fileno()).st_size)
def resources(path):
    return [tuple(int(word, 16) for word in line.split()) for line in open(path + "/resource")]
"""

EDU = COMMON + r"""
path = find("0x1234", "0x11e8")
memory = bar(path, 0)
print("size", len(memory))
def register(at, kind=ctypes.c_uint32):
    return kind.from_buffer(memory, at)
command(path, 6)
print("identification", hex(register(0).value))
register(4).value = 0x12345678
print("liveness", hex(register(4).value))
def factorial(n):
    register(8).value = n
    while register(0x20).value & 1:
        pass
    return register(8).value
print("factorials", *[factorial(n) for n in range(0, 40, 3)])

# A page of this process, whose physical address the kernel tells root.
page = mmap.mmap(-1, 4096)
libc = ctypes.CDLL(None, use_errno=True)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
if libc.mlock(ctypes.c_void_p(address), 4096) != 0:
    sys.exit("mlock")
page[:] = bytes(range(256)) * 16
with open("/proc/self/pagemap", "rb") as pagemap:
    pagemap.seek(address // 4096 * 8)
    entry, = struct.unpack("<Q", pagemap.read(8))
physical = (entry & ((1 << 55) - 1)) * 4096
def transfer(source, destination, count, bits):
    register(0x80, ctypes.c_uint64).value = source
    register(0x88, ctypes.c_uint64).value = destination
    register(0x90, ctypes.c_uint64).value = count
    start = time.monotonic()
    register(0x98, ctypes.c_uint64).value = 1 | bits
    while register(0x98, ctypes.c_uint64).value & 1:
        pass
    return time.monotonic() - start
took = transfer(physical + 100, 0x40000 + 1000, 600, 0)
transfer(0x40000 + 1000, physical + 2000, 600, 2)
print("moved", page[2000:2600] == (bytes(range(256)) * 16)[100:700], page[2600:] == (bytes(range(256)) * 16)[2600:])
print("in time", 0.09 < took < 5)

# Linux' own driver takes the wire: an interrupt is a read of its descriptor, and switches the wire off.
for module in sys.argv[1:]:
    with open(module, "rb") as file:
        if libc.syscall(313, file.fileno(), b"", 0) != 0:  # finit_module
            sys.exit(module + ": " + os.strerror(ctypes.get_errno()))
open("/sys/bus/pci/drivers/uio_pci_generic/new_id", "w").write("1234 11e8")
uio = os.open("/dev/uio0", os.O_RDWR)
def interrupt(act):
    command(path, 4, clear=0x400)
    act()
    count, = struct.unpack("<I", os.read(uio, 4))
    causes = register(0x24).value
    register(0x64).value = causes
    return count, hex(causes)
def raise_two():
    register(0x60).value = 0x30
def compute():
    register(0x20).value = 0x80
    register(8).value = 7
print("interrupts", *interrupt(raise_two), *interrupt(compute), register(8).value,
      *interrupt(lambda: transfer(0x40000, physical, 1, 6)))
"""

TESTDEV = COMMON + r"""
path = find("0x1b36", "0x0005")
memory = bar(path, 0)
command(path, 3)
ports = os.open(path + "/resource1", os.O_RDWR)
class Memory:
    def read(self, at, kind): return kind.from_buffer(memory, at).value
    def write(self, at, value): ctypes.c_uint8.from_buffer(memory, at).value = value
class Ports:
    def read(self, at, kind): return int.from_bytes(os.pread(ports, ctypes.sizeof(kind), at), "little")
    def write(self, at, value): os.pwrite(ports, bytes([value]), at)
for space in (Memory(), Ports()):
    for test in range(100):
        space.write(0, test)
        if space.read(1, ctypes.c_uint8) != 1:
            break
        name = bytes(space.read(at, ctypes.c_uint8) for at in range(16, 64)).split(b"\0")[0]
        offset, data = space.read(4, ctypes.c_uint32), space.read(8, ctypes.c_uint32)
        before = space.read(12, ctypes.c_uint32)
        for _ in range(16):
            space.write(offset, data)
        print(name.decode(), before, space.read(12, ctypes.c_uint32))
start, end, flags = resources(path)[2]
print("wide", end - start + 1, hex(flags & 0x100000), start >= 1 << 32)
"""


class PciTestDevices(unittest.TestCase):
    maxDiff = None

    def run_in_guest(self, program, *options, modules=()):
        files = [str(next((CACHE / "cloud/modules").rglob(f"{name}.ko"))) for name in modules]
        done = subprocess.run([HUSK, "run", str(CACHE / "cloud/vmlinuz"), "--root-user", *options, "--", PYTHON, "-c", program,
                               *files], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT)
        self.assertEqual((done.returncode, done.stderr[-2000:]), (0, ""), done.stdout)
        return done.stdout.splitlines()

    def test_edu_computes_moves_memory_and_interrupts(self):
        shown = self.run_in_guest(EDU, "--device", "edu", modules=("uio", "uio_pci_generic"))
        self.assertEqual(shown, [
            "size 1048576", "identification 0x10000ed", "liveness 0xedcba987",
            "factorials " + " ".join(str(math.factorial(n) % 2**32) for n in range(0, 40, 3)),
            "moved True True", "in time True", "interrupts 1 0x30 2 0x1 5040 3 0x100"])

    def test_edu_moves_nothing_beyond_its_mask(self):
        shown = self.run_in_guest(EDU.split("# Linux' own")[0], "--device", "edu,dma_mask=0", "--memory", "256M")
        self.assertEqual(shown[-2], "moved False True")

    def test_pci_testdev_counts_and_has_a_bar_of_any_size(self):
        for size, wide in ((1 << 24, False), (1 << 33, True), (1 << 37, True)):
            shown = self.run_in_guest(TESTDEV, "--device", f"pci-testdev,membar={size}")
            self.assertEqual(shown, [f"{kind}-{name} 0 16" for kind in ("mmio", "portio")
                                     for name in ("no-eventfd", "wildcard-eventfd", "datamatch-eventfd")]
                             + [f"wide {size} 0x100000 {wide}"])


if __name__ == "__main__":
    HUSK = os.path.abspath(sys.argv[1])
    CACHE = pathlib.Path(sys.argv[2]).resolve()
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
