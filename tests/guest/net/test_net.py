#!/usr/bin/env python3
# husk: TCP and UDP through every kind of network, with Debian's driver in the guest
"""usage: test_net.py HUSK CACHE [unittest arguments]. CACHE is what tools/fetch-guest has filled. Tap needs root."""
import ctypes
import fcntl
import hashlib
import os
import pathlib
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "virtio"))
import test_virtio  # noqa: E402: its initramfs, for guests that QEMU or `husk qemu` starts

HUSK = CACHE = None
KERNELS = "/run/husk-kernels"  # in the guest
TIMEOUT = int(os.environ.get("HUSK_TEST_TIMEOUT", "240"))
DATA = random.Random(11).randbytes((4 << 20) + 123)
SUM = hashlib.sha256(DATA).hexdigest()

# What both sides of a test have: a server that answers a connection with DATA's like and takes what comes, and an echo.
COMMON = """
import hashlib, os, random, resource, socket, subprocess, sys, threading, time
DATA = random.Random(11).randbytes((4 << 20) + 123)
SUM = hashlib.sha256(DATA).hexdigest()
def read_all(s):
    parts = []
    while part := s.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)
def retry(what, seconds=60):
    end = time.monotonic() + seconds
    while True:
        try:
            return what()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
def exchange(host, port):
    "Sends DATA, and gets it back whole."
    s = retry(lambda: socket.create_connection((host, port), timeout=60))
    def write():
        s.sendall(DATA)
        s.shutdown(socket.SHUT_WR)
    writer = threading.Thread(target=write)
    writer.start()
    got = read_all(s)
    writer.join()
    s.close()
    return hashlib.sha256(got).hexdigest() == SUM
def datagrams(host, port, size=1200):
    "Ten datagrams that come back; what is lost is sent again."
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(1)
    for i in range(10):
        sent = bytes([i]) * (size + i)
        for attempt in range(60):
            try:
                s.sendto(sent, (host, port))
                while s.recv(65536) != sent:
                    pass
                break
            except OSError:
                pass
        else:
            s.close()
            return False
    s.close()
    return True
class Echo:
    "Servers for TCP and UDP that send back what comes."
    def __init__(self, host, port=0):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.tcp = socket.socket(family, socket.SOCK_STREAM)
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.tcp.bind((host, port))
        self.tcp.listen(1024)
        self.udp = socket.socket(family, socket.SOCK_DGRAM)
        self.port = self.tcp.getsockname()[1]
        self.udp.bind((host, self.port))
        self.served = 0
        threading.Thread(target=self.accept, daemon=True).start()
        threading.Thread(target=self.datagrams, daemon=True).start()
    def accept(self):
        while True:
            client, _ = self.tcp.accept()
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()
    def serve(self, client):
        self.served += 1
        with client:
            while part := client.recv(1 << 16):
                client.sendall(part)
    def datagrams(self):
        while True:
            try:
                data, peer = self.udp.recvfrom(65536)
                self.udp.sendto(data, peer)
            except OSError:
                pass
def address(*words):
    subprocess.run(["BUSYBOX", "ip", *words], check=True)
"""


def common(kernels):
    return COMMON.replace("BUSYBOX", f"{kernels}/busybox")


def run(*arguments, script, root=False, background=False):
    """Runs Python in a guest whose files are the host's; returns what it printed."""
    # The cache may lie in the host's /tmp, which the guest has not.
    command = [HUSK, "run", str(CACHE / "cloud/vmlinuz"), *arguments, *(["--root-user"] if root else []),
               "--share", f"{CACHE}:{KERNELS}:ro", "--cwd", "/", "--", "python3", "-u", "-c", common(KERNELS) + script]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return child if background else finish(child)


def finish(child):
    try:
        out, err = child.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate()
        raise AssertionError("no end: " + out[-1000:] + err[-1000:])
    if child.returncode != 0:
        raise AssertionError(f"status {child.returncode}: {out[-1000:]}{err[-2000:]}")
    return out


def host_tools():
    scope = {}
    exec(common(CACHE), scope)
    return scope


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class User(unittest.TestCase):
    """libslirp: without any rights."""

    def test_tcp_and_udp_of_both_families_reach_the_host(self):
        tools = host_tools()
        four, six = tools["Echo"]("127.0.0.1"), tools["Echo"]("::1")
        out = run("--net", "user", script=f"""
print("tcp4", exchange("10.0.2.2", {four.port}))
print("udp4", datagrams("10.0.2.2", {four.port}))
print("tcp6", exchange("fec0::2", {six.port}))
print("udp6", datagrams("fec0::2", {six.port}))
""")
        self.assertEqual(out, "tcp4 True\nudp4 True\ntcp6 True\nudp6 True\n")

    def test_forwarded_ports_reach_the_guest(self):
        tools = host_tools()
        tcp, udp = free_port(), free_port()
        child = run("--port", f"{tcp}:7777", "--port", f"udp:{udp}:7777", background=True,
                    script='e = Echo("0.0.0.0", 7777); print("up"); time.sleep(1000)')
        self.addCleanup(child.communicate)
        self.addCleanup(child.terminate)
        self.assertEqual(child.stdout.readline(), "up\n")
        self.assertTrue(tools["exchange"]("127.0.0.1", tcp))
        self.assertTrue(tools["datagrams"]("127.0.0.1", udp))

    def test_a_thousand_connections_live_at_once(self):
        tools = host_tools()
        echo = tools["Echo"]("127.0.0.1")
        threading.stack_size(256 << 10)
        out = run("--net", "user", script=f"""
resource.setrlimit(resource.RLIMIT_NOFILE, (2000, 2000))
all = [retry(lambda: socket.create_connection(("10.0.2.2", {echo.port}), timeout=60)) for i in range(1000)]
for i, s in enumerate(all):
    s.sendall(b"%6d" % i)
print(all[-1].getsockname()[0], sum(int(s.recv(6, socket.MSG_WAITALL)) == i for i, s in enumerate(all)))
""", root=True)
        self.assertEqual(out, "10.0.2.15 1000\n")
        self.assertEqual(echo.served, 1000)

    def test_restrict_keeps_the_guest_in(self):
        tools = host_tools()
        echo = tools["Echo"]("127.0.0.1")
        out = run("--net", "user,restrict=on", script=f"""
try:
    print(socket.create_connection(("10.0.2.2", {echo.port}), timeout=3))
except OSError:
    print("kept in")
""")
        self.assertEqual(out, "kept in\n")
        self.assertEqual(echo.served, 0)

    def test_tshark_reads_what_was_captured(self):
        if not shutil.which("tshark"):
            self.skipTest("no tshark to read with")
        tools = host_tools()
        echo = tools["Echo"]("127.0.0.1")
        with tempfile.TemporaryDirectory() as folder:
            file = folder + "/net.pcap"
            run("--net", "user,capture=" + file, script=f'assert exchange("10.0.2.2", {echo.port})')
            # Whole frames with right sums in both directions, and the whole conversation.
            shown = subprocess.run(["tshark", "-n", "-r", file, "-o", "ip.check_checksum:TRUE", "-Y", f"tcp.port=={echo.port}",
                                    "-T", "fields", "-e", "ip.src", "-e", "tcp.len", "-e", "ip.checksum.status"],
                                   capture_output=True, text=True, check=True).stdout
        rows = [line.split("\t") for line in shown.splitlines()]
        for side in ("10.0.2.15", "10.0.2.2"):
            self.assertGreaterEqual(sum(int(row[1]) for row in rows if row[0] == side), len(DATA))
        self.assertEqual({row[2] for row in rows}, {"1"})


class Tap(unittest.TestCase):
    """An interface of the host, in a network namespace of the test's own."""

    @classmethod
    def setUpClass(cls):
        libc = ctypes.CDLL(None, use_errno=True)
        if os.geteuid() != 0 or not os.path.exists("/dev/net/tun") or libc.unshare(0x40000000) != 0:
            raise unittest.SkipTest("a tap interface needs root, network namespaces and /dev/net/tun")
        cls.tools = host_tools()
        cls.tools["address"]("link", "set", "lo", "up")

    def make_tap(self, queues=1, header=True):
        """A persistent interface with addresses: TUNSETIFF and TUNSETPERSIST."""
        flags = 0x0002 | 0x1000 | (0x4000 if header else 0) | (0x0100 if queues > 1 else 0)
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"husk0", flags))
        fcntl.ioctl(fd, 0x400454CB, 1)
        os.close(fd)
        self.addCleanup(self.tools["address"], "link", "del", "husk0")
        for words in (("addr", "add", "192.168.77.1/24", "dev", "husk0"), ("-6", "addr", "add", "fd77::1/64", "dev", "husk0"),
                      ("link", "set", "husk0", "up")):
            self.tools["address"](*words)

    GUEST = """
address("addr", "add", "192.168.77.2/24", "dev", "eth0")
address("link", "set", "eth0", "up")
"""

    def exchange_both_ways(self, *options, extra=""):
        """The guest to the host over both families, then the host to the guest."""
        echo = self.tools["Echo"]("0.0.0.0")
        child = run(*options, root=True, background=True, script=self.GUEST + f"""
print("tcp", exchange("192.168.77.1", {echo.port}), "udp", datagrams("192.168.77.1", {echo.port}, 9000))
{extra}
e = Echo("0.0.0.0", 7777); print("up"); time.sleep(1000)
""")
        self.addCleanup(child.communicate)
        self.addCleanup(child.terminate)
        self.assertEqual(child.stdout.readline(), "tcp True udp True\n", child.stderr)
        told = []
        while (line := child.stdout.readline()) not in ("up\n", ""):
            told.append(line.strip())
        self.assertTrue(self.tools["exchange"]("192.168.77.2", 7777))
        self.assertTrue(self.tools["datagrams"]("192.168.77.2", 7777, 9000))
        return told

    def test_guest_and_host_reach_each_other(self):
        self.make_tap()
        self.exchange_both_ways("--net", "tap=husk0")

    def test_without_the_header_of_offloads(self):
        self.make_tap(header=False)
        self.exchange_both_ways("--net", "tap=husk0,vnet_hdr=off")

    def test_several_queues(self):
        self.make_tap(queues=2)
        told = self.exchange_both_ways("--cpus", "2", "--net", "tap=husk0,queues=2", extra='print(sorted(os.listdir("/sys/class/net/eth0/queues")))')
        self.assertEqual(told, ["['rx-0', 'rx-1', 'tx-0', 'tx-1']"])

    def test_ipv6(self):
        self.make_tap()
        echo = self.tools["Echo"]("::")
        out = run("--net", "tap=husk0", root=True, script=f"""
# Nobody else has it, and duplicate address detection takes seconds.
open("/proc/sys/net/ipv6/conf/eth0/accept_dad", "w").write("0")
address("link", "set", "eth0", "up")
address("-6", "addr", "add", "fd77::2/64", "dev", "eth0")
print("tcp", exchange("fd77::1", {echo.port}), "udp", datagrams("fd77::1", {echo.port}, 9000))
""")
        self.assertEqual(out, "tcp True udp True\n")

    def with_features(self, features):
        """A card without some features: what the kernel then says of it, and whether bytes pass both ways."""
        self.make_tap()
        echo = self.tools["Echo"]("0.0.0.0")
        served = tempfile.TemporaryDirectory()
        self.addCleanup(served.cleanup)
        status, text = test_virtio.guest(
            "ip addr add 192.168.77.2/24 dev eth0; ip link set eth0 up; cat /sys/bus/virtio/devices/virtio0/features; echo\n"
            "dd if=/dev/urandom of=/tmp/x bs=64k count=80 2>/dev/null; sha256sum < /tmp/x; "
            f"nc 192.168.77.1 {echo.port} < /tmp/x | head -c 5242880 | sha256sum",
            "-netdev", "tap,id=n,ifname=husk0,script=no", "-device", "virtio-net-pci,netdev=n" + features)
        self.assertEqual(status, 0, text[-2000:])
        sums = [line.split()[0] for line in text.splitlines() if line.strip().endswith("  -")]
        self.assertEqual(len(sums), 2, text[-2000:])
        self.assertEqual(sums[0], sums[1])
        # A string of one digit a bit, from bit 0.
        return next(line.strip() for line in text.splitlines() if len(line.strip()) == 64 and set(line.strip()) <= {"0", "1"})

    def test_all_offloads(self):
        bits = self.with_features("")
        self.assertEqual([bits[i] for i in (0, 1, 7, 8, 11, 12, 15)], ["1"] * 7)

    def test_without_segmentation(self):
        bits = self.with_features(",gso=off")
        self.assertEqual([bits[i] for i in (0, 1, 7, 8, 11, 12)], ["1", "1", "0", "0", "0", "0"])

    def test_without_checksums(self):
        bits = self.with_features(",csum=off,guest_csum=off")
        self.assertEqual([bits[i] for i in (0, 1, 7, 8, 11, 12)], ["0"] * 6)

    def test_without_mergeable_buffers(self):
        self.assertEqual(self.with_features(",mrg_rxbuf=off")[15], "0")

    def test_without_mergeable_buffers_on_packed_rings(self):
        self.assertEqual(self.with_features(",mrg_rxbuf=off,packed=on")[34], "1")

    def test_without_a_control_queue(self):
        self.assertEqual(self.with_features(",ctrl_vq=off")[17], "0")


class Peers(unittest.TestCase):
    """Machines joined by a socket."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name):
        return self.folder.name + "/" + name

    def join(self, first, second):
        """Two guests, each on one of the networks."""
        server = run("--net", first + ",mac=52:54:00:00:00:01", root=True, background=True, script="""
address("addr", "add", "192.168.78.1/24", "dev", "eth0")
address("link", "set", "eth0", "up")
e = Echo("0.0.0.0", 7777); print("up"); time.sleep(1000)
""")
        self.addCleanup(server.communicate)
        self.addCleanup(server.terminate)
        self.assertEqual(server.stdout.readline(), "up\n", "the first guest")
        return run("--net", second + ",mac=52:54:00:00:00:02", root=True, script="""
address("addr", "add", "192.168.78.2/24", "dev", "eth0")
address("link", "set", "eth0", "up")
print("tcp", exchange("192.168.78.1", 7777), "udp", datagrams("192.168.78.1", 7777))
""")

    def test_two_guests_on_a_stream_socket(self):
        socket_path = self.path("s")
        self.assertEqual(self.join(f"stream,server=on,addr.type=unix,addr.path={socket_path}",
                                   f"stream,addr.type=unix,addr.path={socket_path}"), "tcp True udp True\n")

    def test_two_guests_on_datagram_sockets(self):
        a, b = self.path("a"), self.path("b")
        pair = "dgram,local.type=unix,local.path={},remote.type=unix,remote.path={}"
        self.assertEqual(self.join(pair.format(a, b), pair.format(b, a)), "tcp True udp True\n")

    def test_two_guests_on_udp_by_the_old_option(self):
        a, b = free_port(), free_port()
        pair = "socket,udp=127.0.0.1:{},localaddr=127.0.0.1:{}"
        self.assertEqual(self.join(pair.format(a, b), pair.format(b, a)), "tcp True udp True\n")

    def qemu_peer(self, netdev):
        """A guest of QEMU's with a web server."""
        if not shutil.which("qemu-system-x86_64"):
            self.skipTest("no qemu-system-x86_64")
        initrd = self.path("cpio")
        pathlib.Path(initrd).write_bytes(test_virtio.make_initramfs(
            "ip addr add 192.168.78.1/24 dev eth0; ip link set eth0 up; mkdir /www; cd /www\n"
            "dd if=/dev/urandom of=file bs=64k count=40 2>/dev/null; sha256sum file | cut -c1-64 > sum\n"
            "/bin/busybox httpd -f -p 8080 -h /www"))
        child = subprocess.Popen(["qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-kernel", str(CACHE / "cloud/vmlinuz"),
                                  "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1", "-display", "none", "-no-reboot",
                                  "-serial", "null", "-monitor", "none", "-netdev", netdev,
                                  "-device", "virtio-net-pci,netdev=n,mac=52:54:00:00:00:01"], stdin=subprocess.DEVNULL)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)

    FETCH = """
import urllib.request
address("addr", "add", "192.168.78.2/24", "dev", "eth0")
address("link", "set", "eth0", "up")
get = lambda name: retry(lambda: urllib.request.urlopen("http://192.168.78.1:8080/" + name, timeout=30).read(), 180)
print(len(get("file")), hashlib.sha256(get("file")).hexdigest() == get("sum").decode().strip())
"""

    def test_a_guest_of_qemus_on_a_stream_socket(self):
        path = self.path("s")
        self.qemu_peer(f"stream,id=n,server=on,addr.type=unix,addr.path={path}")
        self.assertEqual(run("--net", f"stream,addr.type=unix,addr.path={path},reconnect=1", root=True, script=self.FETCH),
                         f"{40 << 16} True\n")

    def test_a_guest_of_qemus_that_connects_to_husk(self):
        port = free_port()
        child = run("--net", f"socket,listen=127.0.0.1:{port}", root=True, background=True, script=self.FETCH)
        host_tools()["retry"](lambda: socket.create_connection(("127.0.0.1", port)).close())
        self.qemu_peer(f"socket,id=n,connect=127.0.0.1:{port}")
        self.assertEqual(finish(child), f"{40 << 16} True\n")

    def test_passt(self):
        if not shutil.which("passt"):
            self.skipTest("no passt")
        # passt gives the guest the host's own address and takes its gateway's for the host.
        route = [line.split() for line in pathlib.Path("/proc/net/route").read_text().splitlines()[1:]]
        if not any(line[1] == "00000000" for line in route):
            self.skipTest("passt wants a host with a default route")
        # One direction at a time: with Debian 12's passt (2023_03_09) a connection that is busy both ways stalls, and so
        # does one that the guest ends halfway. One that the host ends while data is on its way is reset: the reader ends.
        server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(server.close)
        came = []

        def serve():
            client, _ = server.accept()
            with client:
                client.sendall(DATA)
                client.recv(1)
            client, _ = server.accept()
            with client:
                parts = b""
                while len(parts) < len(DATA):
                    parts += client.recv(1 << 16)
                came.append(parts)
                client.sendall(b"got it")
                client.recv(1)
        threading.Thread(target=serve, daemon=True).start()
        out = run("--net", "passt,address=10.9.8.7,netmask=24,gateway=10.9.8.1", root=True, script=f"""
address("addr", "add", "10.9.8.7/24", "dev", "eth0")
address("link", "set", "eth0", "up")
to = ("10.9.8.1", {server.getsockname()[1]})
s, got = retry(lambda: socket.create_connection(to, timeout=60)), b""
while len(got) < len(DATA):
    got += s.recv(1 << 16)
print(got == DATA)
s.close()
s = retry(lambda: socket.create_connection(to, timeout=60))
s.sendall(DATA)
print(s.recv(100))
""")
        self.assertEqual(out, "True\nb'got it'\n")
        self.assertEqual(came, [DATA])


class Vsock(unittest.TestCase):
    """virtio-vsock with Debian's driver; on the host, unix sockets."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = self.folder.name + "/v"

    def serve(self, port, kind=socket.SOCK_STREAM):
        """A program of the host that sends back what comes."""
        server = socket.socket(socket.AF_UNIX, kind)
        self.addCleanup(server.close)
        server.bind(f"{self.path}_{port}")
        server.listen(300)

        def one(client):
            with client:
                while part := client.recv(1 << 18):
                    client.sendall(part)

        def accept():
            try:
                while True:
                    client, _ = server.accept()
                    threading.Thread(target=one, args=(client,), daemon=True).start()
            except OSError:
                pass
        threading.Thread(target=accept, daemon=True).start()

    def vsock(self):
        return f"path={self.path},cid=42"

    def test_the_guest_reaches_programs_of_the_host(self):
        self.serve(7000)
        out = run("--vsock", self.vsock(), script="""
socket.create_connection = lambda to, timeout: (lambda s: (s.connect(to), s)[1])(socket.socket(socket.AF_VSOCK))
print("stream", exchange(2, 7000))
s = socket.socket(socket.AF_VSOCK)
try:
    s.connect((2, 7999))
except OSError as error:
    print(type(error).__name__)
import fcntl, struct
print("cid", struct.unpack("I", fcntl.ioctl(open("/dev/vsock", "rb"), 0x7B9, b"1234"))[0])
""", root=True)
        self.assertEqual(out, "stream True\nConnectionResetError\ncid 42\n")

    def test_many_connections_at_once(self):
        self.serve(7000)
        out = run("--vsock", self.vsock(), script="""
all = [socket.socket(socket.AF_VSOCK) for i in range(300)]
for s in all:
    s.connect((2, 7000))
for i, s in enumerate(all):
    s.sendall(b"%6d" % i * 1000)
print(sum(int(s.recv(6000, socket.MSG_WAITALL)[-6:]) == i for i, s in enumerate(all)))
""", root=True)
        self.assertEqual(out, "300\n")

    def test_messages_of_seqpacket_stay_whole(self):
        self.serve(7001, socket.SOCK_SEQPACKET)
        out = run("--vsock", self.vsock(), script="""
s = socket.socket(socket.AF_VSOCK, socket.SOCK_SEQPACKET)
s.connect((2, 7001))
for size in (1, 100, 5000, 70000, 150000):
    s.send(DATA[:size])
    got = b""
    # One message back, and no part of another.
    got = s.recv(1 << 20)
    print(size, got == DATA[:size])
""", root=True)
        self.assertEqual(out, "".join(f"{size} True\n" for size in (1, 100, 5000, 70000, 150000)))

    def test_programs_of_the_host_reach_the_guest(self):
        child = run("--vsock", self.vsock(), root=True, background=True, script="""
server = socket.socket(socket.AF_VSOCK)
server.bind((socket.VMADDR_CID_ANY, 7777))
server.listen(64)
print("up")
def one(client):
    while part := client.recv(1 << 16):
        client.sendall(part)
    client.close()
while True:
    client, peer = server.accept()
    assert peer[0] == 2, peer
    threading.Thread(target=one, args=(client,), daemon=True).start()
""")
        self.addCleanup(child.communicate)
        self.addCleanup(child.terminate)
        self.assertEqual(child.stdout.readline(), "up\n")

        def call(port):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(60)
            client.connect(self.path)
            client.sendall(f"CONNECT {port}\n".encode())
            return client

        for _ in range(3):
            with call(7777) as client:
                answer = b""
                while not answer.endswith(b"\n"):
                    answer += client.recv(1)
                self.assertRegex(answer, rb"^OK \d+\n$")
                sender = threading.Thread(target=lambda: (client.sendall(DATA), client.shutdown(socket.SHUT_WR)))
                sender.start()
                digest = hashlib.sha256()
                while part := client.recv(1 << 16):
                    digest.update(part)
                sender.join()
                self.assertEqual(digest.hexdigest(), SUM)
        # A port that nobody serves is hung up on.
        with call(7778) as client:
            self.assertEqual(client.recv(10), b"")


if __name__ == "__main__":
    HUSK = test_virtio.HUSK = os.path.abspath(sys.argv[1])
    CACHE = test_virtio.CACHE = pathlib.Path(sys.argv[2]).resolve()
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
