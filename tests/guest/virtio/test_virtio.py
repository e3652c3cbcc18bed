#!/usr/bin/env python3
# husk: drives husk's virtio devices with the drivers of Debian's kernel
"""usage: test_virtio.py HUSK CACHE [unittest arguments]. CACHE is what tools/fetch-guest has filled."""
import hashlib
import http.server
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import unittest

HUSK = CACHE = None
TIMEOUT = 240

MODULES = ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "rng-core", "virtio-rng",
           "virtio_blk", "failover", "net_failover", "virtio_net", "virtio_console", "virtio_balloon", "netfs", "fscache",
           "9pnet", "9pnet_virtio", "9p", "fuse", "virtiofs", "overlay",
           "scsi_common", "scsi_mod", "virtio_scsi", "sd_mod", "cdrom", "sr_mod", "isofs",
           "libnvdimm", "nd_virtio", "virtio_pmem", "nd_btt", "nd_pmem"]
APPLETS = ["sh", "mount", "insmod", "cat", "echo", "dd", "sha256sum", "ls", "grep", "ip", "udhcpc", "ping", "wget", "sleep",
           "poweroff", "sync", "hexdump", "cut", "lspci", "head", "wc", "dmesg", "seq", "mkdir", "rm", "nc", "blockdev", "stat",
           "mv", "ln", "chmod", "test", "tr", "sort", "touch", "readlink", "umount", "true", "cmp", "cp", "truncate",
           "tail", "blkdiscard", "mkfifo", "sed", "rmdir", "find", "printf", "time", "chroot", "tar"]


def newc(name, mode, data=b"", rdev=(0, 0)):
    """One entry of a cpio archive of the newc format."""
    fields = [0, mode, 0, 0, 1, 0, len(data), 0, 0, rdev[0], rdev[1], len(name) + 1, 0]
    entry = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    entry += b"\0" * (-len(entry) % 4)
    return entry + data + b"\0" * (-len(data) % 4)


def make_initramfs(script, kernel="cloud"):
    parts = [newc(folder, 0o040755) for folder in ("bin", "dev", "proc", "sys", "mod", "tmp", "mnt")]
    parts.append(newc("dev/console", 0o020600, rdev=(5, 1)))
    parts.append(newc("bin/busybox", 0o100755, (CACHE / "busybox").read_bytes()))
    parts += [newc("bin/" + applet, 0o120777, b"busybox") for applet in APPLETS]
    found = {path.stem.replace("_", "-"): path for path in (CACHE / kernel / "modules").rglob("*.ko")}
    names = [name for name in MODULES if name.replace("_", "-") in found]
    parts += [newc(f"mod/{name}.ko", 0o100644, found[name.replace("_", "-")].read_bytes()) for name in names]
    lines = ["#!/bin/sh", "mount -t devtmpfs dev /dev", "mount -t proc proc /proc", "mount -t sysfs sys /sys",
             *[f"insmod /mod/{name}.ko" for name in names], script, "echo END-OF-SCRIPT", "sync", "poweroff -f", ""]
    parts.append(newc("init", 0o100755, "\n".join(lines).encode()))
    parts.append(newc("udhcpc.sh", 0o100755,
                      b"#!/bin/sh\n[ \"$1\" = bound ] && ip addr add $ip/24 dev $interface && ip route add default via $router\n"))
    parts.append(newc("TRAILER!!!", 0))
    return b"".join(parts)


def iso9660(name, content):
    """A disc image with one file in its root (ECMA-119)."""
    def both(value, size):
        return value.to_bytes(size, "little") + value.to_bytes(size, "big")

    def record(identifier, block, length, flags):
        size = 33 + len(identifier) + (len(identifier) + 1) % 2
        return (bytes([size, 0]) + both(block, 4) + both(length, 4) + bytes([120, 1, 1, 0, 0, 0, 0, flags, 0, 0]) + both(1, 2)
                + bytes([len(identifier)]) + identifier).ljust(size, b"\0")
    file_block, root_block = 19, 18
    blocks = file_block + (len(content) + 2047) // 2048
    root = record(b"\0", root_block, 2048, 2) + record(b"\1", root_block, 2048, 2) + record(name.encode(), file_block, len(content), 0)
    volume = bytearray(2048)
    volume[0:7] = b"\1CD001\1"
    volume[8:40] = b" " * 32
    volume[40:72] = b"HUSKDISC".ljust(32)
    volume[80:88] = both(blocks, 4)
    volume[120:124] = volume[124:128] = both(1, 2)
    volume[128:132] = both(2048, 2)
    volume[156:190] = record(b"\0", root_block, 2048, 2)
    volume[881] = 1
    end = b"\xffCD001\1".ljust(2048, b"\0")
    return bytes(16 * 2048) + bytes(volume) + end + root.ljust(2048, b"\0") + content.ljust((blocks - file_block) * 2048, b"\0")


def guest_command(initrd, script, arguments, smp, append, kernel="cloud"):
    initrd.write(make_initramfs(script, kernel))
    initrd.flush()
    return [HUSK, "qemu", "-kernel", str(CACHE / kernel / "vmlinuz"), "-initrd", initrd.name, "-m", "256", "-smp", str(smp),
            "-append", "console=ttyS0 quiet panic=-1 " + append, "-display", "none", "-no-reboot", "-cpu", "max",
            "-serial", "stdio", *arguments]


def guest(script, *arguments, smp=1, append="", kernel="cloud"):
    """Boots, runs the script, and returns what was printed."""
    with tempfile.NamedTemporaryFile(suffix=".cpio") as initrd:
        command = guest_command(initrd, script, arguments, smp, append, kernel)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT)
    text = done.stdout.decode(errors="replace")
    if os.environ.get("HUSK_SHOW"):
        print(text)
    return done.returncode, text


class Guest(unittest.TestCase):
    def check(self, result):
        status, text = result
        self.assertEqual(status, 0, text[-3000:])
        self.assertIn("END-OF-SCRIPT", text)
        for bad in ("BUG:", "Oops", "Call Trace", "Kernel panic", "needs reset", "I/O error"):
            self.assertNotIn(bad, text)
        return text


class Virtio(Guest):
    def test_rng_gives_bytes_that_differ(self):
        text = self.check(guest("cat /sys/class/misc/hw_random/rng_available; cat /sys/bus/pci/devices/*/device\n"
                                "for i in 1 2; do dd if=/dev/hwrng bs=64 count=4 2>/dev/null | sha256sum | sed 's/^/sum /'; done",
                                "-device", "virtio-rng-pci"))
        self.assertIn("virtio_rng.0", text)
        self.assertIn("0x1044", text)

    def disk_round_trip(self, *device, smp=1):
        with tempfile.NamedTemporaryFile(suffix=".img") as image:
            content = random.Random(7).randbytes(8 << 20)
            image.write(content)
            image.flush()
            text = self.check(guest(
                "cat /sys/block/vda/size /sys/block/vda/serial; dd if=/dev/vda bs=64k 2>/dev/null | sha256sum\n"
                "dd if=/dev/vda of=/tmp/x bs=4k skip=16 count=256 2>/dev/null\n"
                "dd if=/tmp/x of=/dev/vda bs=4k seek=1024 count=256 conv=fsync 2>/dev/null; echo wrote $?\n",
                "-drive", f"file={image.name},format=raw,if=none,id=d", *device, smp=smp))
            self.assertIn("16384\r\n", text)
            self.assertIn(hashlib.sha256(content).hexdigest(), text)
            self.assertIn("wrote 0", text)
            after = pathlib.Path(image.name).read_bytes()
            expected = bytearray(content)
            expected[4 << 20:5 << 20] = content[64 << 10:(64 << 10) + (1 << 20)]
            self.assertEqual(hashlib.sha256(after).hexdigest(), hashlib.sha256(bytes(expected)).hexdigest())
            return text

    def test_disk_keeps_what_is_written(self):
        self.assertIn("serial-1", self.disk_round_trip("-device", "virtio-blk-pci,drive=d,serial=serial-1"))

    def test_disk_works_with_packed_rings(self):
        self.disk_round_trip("-device", "virtio-blk-pci,drive=d,packed=on")

    def test_disk_works_without_indirect_descriptors_and_event_index(self):
        self.disk_round_trip("-device", "virtio-blk-pci,drive=d,indirect_desc=off,event_idx=off")

    def test_disk_works_as_a_transitional_device(self):
        self.disk_round_trip("-device", "virtio-blk-pci,drive=d,disable-legacy=off")

    def test_disk_works_with_four_processors(self):
        self.disk_round_trip("-device", "virtio-blk-pci,drive=d", smp=4)

    def test_qcow2_disk_is_clean_after_use(self):
        with tempfile.TemporaryDirectory() as folder:
            image = folder + "/disk.qcow2"
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"], check=True)
            text = self.check(guest(
                "seq 1 200000 > /tmp/x; dd if=/tmp/x of=/dev/vda bs=64k seek=3 conv=fsync 2>/dev/null\n"
                "n=$(stat -c %s /tmp/x); sha256sum < /tmp/x; dd if=/dev/vda bs=64k skip=3 2>/dev/null | head -c $n | sha256sum",
                "-drive", f"file={image},format=qcow2"))
            sums = [line.split()[0] for line in text.splitlines() if line.strip().endswith("-")]
            self.assertEqual(len(sums), 2)
            self.assertEqual(sums[0], sums[1])
            subprocess.run(["qemu-img", "check", "-q", image], check=True)

    SCSI_DISK = ["-device", "virtio-scsi-pci,id=s0", "-device",
                 "scsi-hd,bus=s0.0,drive=d,scsi-id=3,lun=2,serial=S-42,wwn=0x5000c50015ea71ac,vendor=ACME,product=Anvil,ver=7.1,"
                 "rotation_rate=1,physical_block_size=4096"]
    WAIT_SDA = "for i in $(seq 100); do [ -e /dev/sda ] && break; sleep 0.1; done\n"

    def scsi_round_trip(self, controller="", smp=1):
        with tempfile.NamedTemporaryFile(suffix=".img") as image:
            content = random.Random(9).randbytes(8 << 20)
            image.write(content)
            image.flush()
            devices = list(self.SCSI_DISK)
            devices[1] += controller
            text = self.check(guest(
                self.WAIT_SDA +
                "ls /sys/class/scsi_device; cd /sys/block/sda; cat size device/vendor device/model device/rev device/wwid device/type\n"
                "cat queue/rotational queue/physical_block_size queue/write_cache queue/fua queue/discard_max_bytes; cd /\n"
                "hexdump -C /sys/block/sda/device/vpd_pg80\n"
                "dd if=/dev/sda bs=64k 2>/dev/null | sha256sum\n"
                "for i in 0 1 2 3; do (dd if=/dev/sda of=/tmp/x$i bs=4k skip=$((16+64*i)) count=64 2>/dev/null\n"
                "dd if=/tmp/x$i of=/dev/sda bs=4k seek=$((1024+64*i)) count=64 conv=fsync 2>/dev/null; echo wrote $?) & done; wait\n",
                "-drive", f"file={image.name},format=raw,if=none,id=d", *devices, smp=smp))
            text = text.replace("\r", "")
            self.assertIn("0:0:3:2\n16384\nACME    \nAnvil           \n7.1 \nnaa.5000c50015ea71ac\n0\n", text)
            self.assertIn("0\n4096\nwrite back\n1\n1073741824\n", text)
            self.assertIn("S-42", text)
            self.assertIn(hashlib.sha256(content).hexdigest(), text)
            self.assertEqual(text.count("wrote 0"), 4)
            expected = bytearray(content)
            expected[4 << 20:5 << 20] = content[64 << 10:(64 << 10) + (1 << 20)]
            self.assertEqual(hashlib.sha256(pathlib.Path(image.name).read_bytes()).hexdigest(),
                             hashlib.sha256(bytes(expected)).hexdigest())

    def test_scsi_disk_is_what_it_was_told_to_be_and_keeps_what_is_written(self):
        self.scsi_round_trip()

    def test_scsi_disk_works_with_packed_rings_and_four_processors(self):
        self.scsi_round_trip(",packed=on", smp=4)

    def test_scsi_disk_works_in_order_without_indirect_descriptors(self):
        self.scsi_round_trip(",in_order=on,indirect_desc=off,num_queues=2", smp=2)

    def test_scsi_disk_gives_discarded_space_back(self):
        with tempfile.TemporaryDirectory() as folder:
            image = folder + "/disk.qcow2"
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"], check=True)
            self.check(guest(self.WAIT_SDA + "dd if=/dev/zero bs=1M count=16 2>/dev/null | tr '\\0' x | dd of=/dev/sda bs=1M conv=fsync 2>/dev/null\n"
                             "blkdiscard -o 0 -l 12582912 /dev/sda && echo DISCARDED\n"
                             "dd if=/dev/sda bs=1M count=13 2>/dev/null | tr -d '\\0' | wc -c",
                             "-drive", f"file={image},format=qcow2,if=none,id=d", *self.SCSI_DISK))
            subprocess.run(["qemu-img", "check", "-q", image], check=True)
            shown = subprocess.run(["qemu-img", "map", "--output=json", image], check=True, capture_output=True).stdout
            allocated = sum(piece["length"] for piece in json.loads(shown) if piece["data"])
            self.assertEqual(allocated, 4 << 20)

    def test_cdrom_is_mounted_and_known(self):
        content = random.Random(5).randbytes(300001)
        with tempfile.NamedTemporaryFile(suffix=".iso") as image:
            image.write(iso9660("FILE.BIN;1", content))
            image.flush()
            os.chmod(image.name, 0o444)
            text = self.check(guest(
                "for i in $(seq 100); do [ -e /dev/sr0 ] && break; sleep 0.1; done; cat /sys/block/sr0/device/type\n"
                "mount -t iso9660 -o ro /dev/sr0 /mnt && sha256sum /mnt/file.bin; umount /mnt && echo UNMOUNTED\n"
                "cat /sys/block/sr0/size /sys/block/sr0/removable /sys/block/sr0/ro; cat /proc/sys/dev/cdrom/info",
                "-drive", f"file={image.name},format=raw,if=none,id=c,media=cdrom",
                "-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=c"))
            self.assertIn(hashlib.sha256(content).hexdigest(), text)
            self.assertIn("UNMOUNTED", text)
            self.assertIn(f"{(19 + 147) * 4}\r\n1\r\n", text)
            self.assertRegex(text, r"Can open tray:\s+1")
            self.assertRegex(text, r"Can lock tray:\s+1")
            self.assertRegex(text, r"Can read DVD:\s+1")
            self.assertRegex(text, r"Can write CD-R:\s+0")

    def stopped_and_continued(self, name, *device):
        """A write fails once, the machine stops, and goes on when it is told to, as if nothing had happened."""
        with tempfile.NamedTemporaryFile(suffix=".img") as image, tempfile.NamedTemporaryFile(suffix=".cpio") as initrd:
            image.truncate(8 << 20)
            command = guest_command(
                initrd, f"for i in $(seq 100); do [ -e /dev/{name} ] && break; sleep 0.1; done\n"
                "seq 1 10000 > /tmp/x; echo WRITING\n"
                f"dd if=/tmp/x of=/dev/{name} bs=4k conv=fsync 2>/dev/null && echo WRITTEN\n",
                ["-blockdev", f"driver=raw,node-name=f,file.driver=file,file.filename={image.name}", "-blockdev",
                 "driver=blkdebug,node-name=d,image=f,inject-error.0.event=write_aio,inject-error.0.errno=28,"
                 "inject-error.0.sector=8,inject-error.0.once=on", *device], 2, "")
            husk = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            lines = []
            timer = threading.Timer(TIMEOUT, husk.kill)
            timer.start()
            for line in husk.stdout:
                lines.append(line.decode(errors="replace"))
                if "stands still" in lines[-1]:
                    self.assertIn("No space left on device", lines[-1])
                    husk.send_signal(signal.SIGCONT)
            timer.cancel()
            husk.stdout.close()
            text = "".join(lines)
            self.check((husk.wait(), text))
            self.assertEqual(text.count("stands still"), 1)
            self.assertIn("WRITTEN", text)
            expected = "".join(f"{i}\n" for i in range(1, 10001)).encode()
            self.assertEqual(pathlib.Path(image.name).read_bytes()[:len(expected)], expected)

    def test_a_full_disk_stops_the_machine_until_it_is_continued(self):
        self.stopped_and_continued("vda", "-device", "virtio-blk-pci,drive=d")

    def test_a_full_scsi_disk_stops_the_machine_until_it_is_continued(self):
        self.stopped_and_continued("sda", "-device", "virtio-scsi-pci,packed=on", "-device", "scsi-hd,drive=d,werror=stop")

    def test_an_error_is_reported_to_the_guest(self):
        with tempfile.NamedTemporaryFile(suffix=".img") as image:
            image.truncate(8 << 20)
            status, text = guest(
                self.WAIT_SDA + "dd if=/dev/sda of=/dev/null bs=4k skip=100 count=1 2>&1 || echo READ-FAILED\n"
                "dd if=/dev/sda of=/dev/null bs=4k skip=110 count=1 iflag=direct 2>/dev/null && echo READ-FINE\n",
                "-blockdev", f"driver=raw,node-name=f,file.driver=file,file.filename={image.name}", "-blockdev",
                "driver=blkdebug,node-name=d,image=f,inject-error.0.event=read_aio,inject-error.0.sector=803",
                "-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=d")
            self.assertEqual(status, 0, text[-3000:])
            self.assertIn("READ-FAILED", text)
            self.assertIn("READ-FINE", text)

    def test_user_network_pings_and_fetches(self):
        class Handler(http.server.BaseHTTPRequestHandler):
            body = random.Random(1).randbytes(1 << 20)

            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(self.body)))
                self.end_headers()
                self.wfile.write(self.body)

            def log_message(self, *arguments):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            text = self.check(guest(
                "ip link set lo up; ip link set eth0 up; udhcpc -i eth0 -n -q -s /udhcpc.sh; ip addr show eth0\n"
                "ping -c 3 -W 5 10.0.2.2; "
                f"wget -q -O - http://10.0.2.2:{server.server_port}/ | sha256sum",
                "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"))
        finally:
            server.shutdown()
        self.assertIn("inet 10.0.2.15", text)
        self.assertIn("3 packets received", text)
        self.assertIn(hashlib.sha256(Handler.body).hexdigest(), text)

    WAIT_PMEM = "for i in $(seq 100); do [ -e /dev/pmem0 ] && break; sleep 0.1; done\n"

    def test_pmem_is_memory_that_a_file_keeps(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "memory")
            content = random.Random(13).randbytes(64 << 20)
            path.write_bytes(content)
            pmem = ["-object", f"memory-backend-file,id=m,mem-path={path},size=64M,share=on", "-device", "virtio-pmem-pci,memdev=m"]
            for options, memory in (([], "256M"), (["packed=on"], "3G")):
                with self.subTest(options):
                    text = self.check(guest(
                        self.WAIT_PMEM + "cat /sys/block/pmem0/size /sys/block/pmem0/queue/write_cache; sha256sum < /dev/pmem0\n"
                        "grep namespace /proc/iomem\n"
                        "dd if=/dev/pmem0 of=/tmp/x bs=4k skip=16 count=256 2>/dev/null\n"
                        "dd if=/tmp/x of=/dev/pmem0 bs=4k seek=1024 count=256 conv=fsync 2>/dev/null; echo wrote $?\n"
                        "sync; sha256sum < /dev/pmem0",
                        *pmem[:-1], ",".join([pmem[-1], *options]), "-m", memory, smp=2))
                    self.assertIn("131072\r\n", text)
                    self.assertIn("namespace0.0", text)
                    self.assertIn(hashlib.sha256(content).hexdigest(), text)
                    self.assertIn("wrote 0", text)
                    expected = bytearray(content)
                    expected[4 << 20:5 << 20] = content[64 << 10:(64 << 10) + (1 << 20)]
                    content = bytes(expected)
                    self.assertEqual(hashlib.sha256(path.read_bytes()).hexdigest(), hashlib.sha256(content).hexdigest())
                    self.assertIn(hashlib.sha256(content).hexdigest(), text)

    def test_pmem_that_is_not_shared_leaves_its_file_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "memory")
            content = random.Random(17).randbytes(16 << 20)
            path.write_bytes(content)
            text = self.check(guest(
                self.WAIT_PMEM + "dd if=/dev/zero of=/dev/pmem0 bs=1M count=16 conv=fsync 2>/dev/null; sha256sum < /dev/pmem0",
                "-object", f"memory-backend-file,id=m,mem-path={path},size=16M", "-device", "virtio-pmem-pci,memdev=m"))
            self.assertIn(hashlib.sha256(bytes(16 << 20)).hexdigest(), text)
            self.assertEqual(path.read_bytes(), content)

    def test_two_pmem_devices_beside_a_wide_pci_bar(self):
        with tempfile.TemporaryDirectory() as folder:
            arguments = []
            for name in "ab":
                arguments += ["-object", f"memory-backend-file,id={name},mem-path={folder}/{name},size=32M,share=on", "-device",
                              f"virtio-pmem-pci,memdev={name}"]
            text = self.check(guest(
                self.WAIT_PMEM + "for i in 0 1; do echo number $i > /tmp/x; dd if=/tmp/x of=/dev/pmem$i conv=fsync 2>/dev/null; done\n"
                "grep -c pmem /proc/partitions", *arguments, "-device", "pci-testdev,membar=8G"))
            self.assertIn("\n2\r\n", text)
            self.assertEqual({os.stat(f"{folder}/{name}").st_size for name in "ab"}, {32 << 20})
            heads = [pathlib.Path(folder, name).read_bytes()[:8] for name in "ab"]
            self.assertEqual(sorted(heads), [b"number 0", b"number 1"])


class Folders:
    """What a folder of the host does in a guest, by whatever protocol."""

    def in_share(self, script, *options, device="", smp=1, prepare=None):
        """Runs the script in a guest with a folder mounted at /mnt; returns what was printed, and the folder."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        root = pathlib.Path(folder.name) / "share"
        root.mkdir()
        if prepare:
            prepare(root)
        text = self.check(guest(f"mount {self.MOUNT} files /mnt || echo NOT-MOUNTED\n" + script,
                                "-fsdev", ",".join(["local,id=f,path=" + str(root), *self.options(options)]),
                                "-device", self.DEVICE + self.properties(device), smp=smp, kernel=self.KERNEL))
        self.assertNotIn("NOT-MOUNTED", text)
        return text.replace("\r", ""), root

    def test_files_behave_in_a_share_as_on_the_host(self):
        script = pathlib.Path(__file__).with_name("file_operations.sh").read_text()
        text, root = self.in_share("cat > /tmp/ops.sh <<'END-OF-OPS'\n" + script + "END-OF-OPS\n"
                                   "mkdir /mnt/in; echo OPS-BEGIN; sh /tmp/ops.sh /mnt/in; echo OPS-END; umount /mnt && echo UNMOUNTED")
        self.assertIn("UNMOUNTED", text)
        shown = text.split("OPS-BEGIN\n", 1)[1].split("OPS-END\n", 1)[0]
        # The same applets of the same busybox on the host itself.
        with tempfile.TemporaryDirectory() as tools:
            for applet in APPLETS:
                os.symlink(CACHE / "busybox", tools + "/" + applet)
            native = root / "native"
            native.mkdir()
            done = subprocess.run([tools + "/sh", "-c", script, "sh", str(native)], env={"PATH": tools},
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        self.maxDiff = None
        self.assertEqual(shown.splitlines(), done.stdout.splitlines())
        # And what is there in the end, seen from the host.
        def tree(top):
            return {str(path.relative_to(top)): (oct(path.lstat().st_mode), path.lstat().st_nlink,
                                                 path.read_bytes() if path.is_file() else b"") for path in top.rglob("*")}
        self.assertEqual(tree(root / "in"), tree(native))

    def test_a_share_mounts_on_packed_rings_and_four_processors(self):
        text, root = self.in_share(
            "for i in 1 2 3 4; do (mkdir /mnt/$i; for j in $(seq 1 200); do echo $i-$j > /mnt/$i/$j; done; "
            "cat /mnt/$i/* | sort | sha256sum | cut -c1-64 > /mnt/sum-$i) & done; wait; ls /mnt",
            device=",packed=on,num-request-queues=2", smp=4)
        for i in "1234":
            lines = "".join(sorted(f"{i}-{j}\n" for j in range(1, 201)))
            self.assertEqual((root / f"sum-{i}").read_text().strip(), hashlib.sha256(lines.encode()).hexdigest())

    def test_the_host_and_the_guest_see_each_others_changes(self):
        content = random.Random(3).randbytes(5 << 20)
        text, root = self.in_share("sha256sum /mnt/big; cp /mnt/big /mnt/copy; sync; ls -l /mnt/link; cat /mnt/link; ls /mnt/",
                                   "cache=none", prepare=lambda root: ((root / "big").write_bytes(content),
                                                                       (root / "link").symlink_to("/proc/version")))
        self.assertIn(hashlib.sha256(content).hexdigest(), text)
        self.assertEqual((root / "copy").read_bytes(), content)
        self.assertIn("Linux version", text)  # the guest's own: links are followed in there

    def test_a_share_leads_nowhere_else(self):
        def prepare(root):
            (root.parent / "secret").write_text("TOP-SECRET")
            (root / "up").symlink_to("../secret")
            (root / "abs").symlink_to(root.parent / "secret")
            (root / "dir").mkdir()
            (root / "dirlink").symlink_to("..")
        text, root = self.in_share("cd /mnt; cat up abs dirlink/secret ../secret dir/../../secret; ls dirlink/; mv dir/../up dir/; "
                                   "cat dir/up; ln /mnt/up /mnt/hard; cat /mnt/hard; cat /mnt/dir/../../../secret", prepare=prepare)
        self.assertNotIn("TOP-SECRET", text)

    def test_a_read_only_share_is_an_overlays_lower_layer(self):
        def prepare(root):
            (root / "etc").mkdir()
            (root / "etc/file").write_text("lower")
            (root / "etc/other").write_text("other")
            (root / "gone").mkdir()
            for i in range(500):
                (root / "gone" / str(i)).write_text(str(i))
            (root / "busybox").write_bytes((CACHE / "busybox").read_bytes())
            (root / "busybox").chmod(0o755)
        text, root = self.in_share(
            "echo x > /mnt/new || echo REFUSED\n"
            "mkdir /tmp/o; mount -t tmpfs t /tmp/o; mkdir /tmp/o/upper /tmp/o/work /tmp/o/all\n"
            "mount -t overlay -o lowerdir=/mnt,upperdir=/tmp/o/upper,workdir=/tmp/o/work o /tmp/o/all && cd /tmp/o/all\n"
            "echo upper >> etc/file; cat etc/file; rm etc/other; ls etc; rm -r gone; ls; mkdir gone; ls gone | wc -l\n"
            "mv etc/file etc/renamed; cat etc/renamed; ./busybox echo RAN-FROM-SHARE; chmod 600 busybox; stat -c %a busybox\n"
            "find . | sort | tr '\\n' ' '", "readonly=on", "cache=always", prepare=prepare)
        self.assertIn("REFUSED", text)
        self.assertIn("lowerupper", text)
        self.assertIn("RAN-FROM-SHARE", text)
        self.assertIn(". ./busybox ./etc ./etc/renamed ./gone", text)
        self.assertEqual((root / "etc/file").read_text(), "lower")
        self.assertTrue((root / "gone/499").exists())
        self.assertFalse((root / "new").exists())


class VirtioFs(Folders, Guest):
    KERNEL, MOUNT, DEVICE = "cloud", "-t virtiofs", "virtio-fs-pci,fsdev=f,tag=files"

    def options(self, options):
        return options

    def properties(self, device):
        return device


class Ninep(Folders, Guest):
    # Debian's cloud kernel has no 9p.
    KERNEL, MOUNT = "generic", "-t 9p -o trans=virtio,version=9p2000.L,msize=262144"
    DEVICE = "virtio-9p-pci,fsdev=f,mount_tag=files"

    def options(self, options):
        return [option for option in options if not option.startswith("cache=")]

    def properties(self, device):
        return device.replace(",num-request-queues=2", "")

    def test_virtfs_makes_folder_and_device(self):
        with tempfile.TemporaryDirectory() as folder:
            text = self.check(guest("mount -t 9p -o trans=virtio,ro tag /mnt; cat /mnt/file; stat -f -c %t /mnt; echo x > /mnt/new",
                                    "-virtfs", f"local,path={self.filled(folder)},mount_tag=tag,security_model=none,readonly=on",
                                    kernel=self.KERNEL))
            self.assertIn("content", text)
            self.assertIn("1021997", text)
            self.assertFalse(os.path.exists(folder + "/new"))

    def filled(self, folder):
        pathlib.Path(folder, "file").write_text("content")
        return folder

    def test_transfers_of_every_size_and_cache_mode(self):
        content = random.Random(5).randbytes((8 << 20) + 77)
        for options in ("msize=4096", "msize=1048576", "msize=131072,cache=loose", "msize=500000,cache=mmap"):
            with self.subTest(options), tempfile.TemporaryDirectory() as folder:
                pathlib.Path(folder, "big").write_bytes(content)
                text = self.check(guest(
                    f"mount -t 9p -o trans=virtio,version=9p2000.L,{options} tag /mnt && sha256sum < /mnt/big && cp /mnt/big /mnt/copy\n"
                    "dd if=/mnt/big of=/mnt/odd bs=100003 2>/dev/null; umount /mnt && echo UNMOUNTED",
                    "-virtfs", f"local,path={folder},mount_tag=tag", kernel=self.KERNEL))
                self.assertIn("UNMOUNTED", text)
                self.assertIn(hashlib.sha256(content).hexdigest(), text)
                for name in ("copy", "odd"):
                    self.assertEqual(hashlib.sha256(pathlib.Path(folder, name).read_bytes()).digest(),
                                     hashlib.sha256(content).digest(), name)


if __name__ == "__main__":
    HUSK = os.path.abspath(sys.argv[1])
    CACHE = pathlib.Path(sys.argv[2]).resolve()
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
