#!/usr/bin/env python3
# husk: every option of the command lines on real input, every way to end, every kind of bad input
"""usage: test_cli.py HUSK CACHE [unittest arguments]. CACHE is what tools/fetch-guest has filled."""
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
import unittest

import guests

HUSK = CACHE = None
SECONDS = 120  # of patience with a busy host
EXIT_DEVICE = ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]
RUNNING = guests.say(b"running\n")


def wait_for(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it did not come to pass")
        time.sleep(0.02)


class Case(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="husk-cli-test.")
        self.addCleanup(shutil.rmtree, self.directory)

    def path(self, name):
        return os.path.join(self.directory, name)

    def file(self, name, content):
        path = self.path(name)
        pathlib.Path(path).write_bytes(content)
        return path

    def rom(self, *code):
        return self.file("rom", guests.rom(b"".join(code)))

    def husk(self, *arguments, program=None, stdin=subprocess.DEVNULL):
        return subprocess.run([program or HUSK, *arguments], stdin=stdin, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=SECONDS)

    def qemu_words(self, *arguments, code=RUNNING + guests.EXIT):
        return ["qemu", "-accel", "tcg", "-display", "none", "-bios", self.rom(code), *EXIT_DEVICE, *arguments]

    def qemu(self, *arguments, code=RUNNING + guests.EXIT, status=33):
        done = self.husk(*self.qemu_words(*arguments, code=code))
        self.assertEqual(done.returncode, status, (arguments, done.stderr))
        return done

    def start(self, *arguments, code=RUNNING + guests.ECHO):
        child = subprocess.Popen([HUSK, *self.qemu_words(*arguments, code=code)], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(child.communicate)
        self.addCleanup(child.kill)
        return child

    def talk(self, stream, greeting=b"running\n"):
        """The guest echoes."""
        stream.settimeout(SECONDS)
        stream.sendall(b"abc")
        got = b""
        while len(got) < len(greeting) + 3:
            more = stream.recv(100)
            self.assertTrue(more, got)
            got += more
        self.assertEqual(got, greeting + b"abc")

    def end(self, child, status=0):
        child.terminate()
        self.assertEqual(child.wait(SECONDS), status)


class Serial(Case):
    """Where a serial port can lead."""

    def test_stdio(self):
        for form in ("stdio", "mon:stdio"):
            self.assertEqual(self.qemu("-serial", form).stdout, b"running\n")

    def test_nographic_puts_it_on_standard_output(self):
        done = self.husk("qemu", "-accel", "tcg", "-nographic", "-bios", self.rom(RUNNING, guests.EXIT), *EXIT_DEVICE)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (33, b"running\n", b""))

    def test_null_and_none_say_nothing(self):
        for form in ("null", "none"):
            self.assertEqual(self.qemu("-serial", form).stdout, b"")

    def test_none_is_no_port(self):
        """What no device answers reads as ones."""
        code = guests.show_port(0x2FD) + guests.EXIT  # COM2's line status
        self.assertEqual(self.qemu("-serial", "stdio", "-serial", "none", code=code).stdout, b"\xff")
        # 16550 data sheet: transmitter and holding register empty, nothing received.
        self.assertEqual(self.qemu("-serial", "stdio", "-serial", "null", code=code).stdout, b"\x60")

    def test_file(self):
        self.qemu("-serial", "file:" + self.path("out"))
        self.assertEqual(pathlib.Path(self.path("out")).read_bytes(), b"running\n")

    def test_second_port_is_com2(self):
        code = b"\xba\xf8\x02\xb0\x32\xee" + guests.EXIT
        self.assertEqual(self.qemu("-serial", "null", "-serial", "stdio", code=code).stdout, b"2")

    def test_pty(self):
        child = self.start("-serial", "pty")
        # QEMU's users look for this line.
        line = child.stderr.readline().decode()
        found = re.fullmatch(r"char device redirected to (/dev/pts/\d+) \(label serial0\)\n", line)
        self.assertTrue(found, line)
        terminal = os.open(found[1], os.O_RDWR | os.O_NOCTTY)
        self.addCleanup(os.close, terminal)
        os.write(terminal, b"abc")
        got = b""
        while not got.endswith(b"abc"):
            self.assertTrue(select.select([terminal], [], [], SECONDS)[0], got)
            got += os.read(terminal, 100)
        self.end(child)

    def test_unix_server(self):
        child = self.start("-serial", f"unix:{self.path('s')},server=on")
        wait_for(lambda: os.path.exists(self.path("s")))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path("s"))
            self.talk(client)
        self.end(child)
        self.assertFalse(os.path.exists(self.path("s")), "the socket stays behind")

    def test_unix_server_that_does_not_wait(self):
        """The old words, and a client that comes late."""
        done = self.qemu("-serial", f"unix:{self.path('s')},server,nowait")
        self.assertEqual(done.stderr, b"")

    def test_unix_client(self):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(self.path("s"))
            server.listen()
            server.settimeout(SECONDS)
            child = self.start("-serial", "unix:" + self.path("s"))
            client, _ = server.accept()
            with client:
                self.talk(client)
            self.end(child)

    def test_tcp_server(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        child = self.start("-serial", f"tcp:127.0.0.1:{port},server=on")
        client = None
        end = time.monotonic() + SECONDS
        while not client:
            try:
                client = socket.create_connection(("127.0.0.1", port))
            except ConnectionRefusedError:
                self.assertLess(time.monotonic(), end)
                time.sleep(0.02)
        with client:
            self.talk(client)
        self.end(child)

    def test_tcp_client(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(SECONDS)
            child = self.start("-serial", f"tcp:127.0.0.1:{server.getsockname()[1]}")
            client, _ = server.accept()
            with client:
                self.talk(client)
            self.end(child)

    def test_a_client_that_hangs_up_does_not_end_the_machine(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(SECONDS)
            child = self.start("-serial", f"tcp:127.0.0.1:{server.getsockname()[1]},reconnect=1")
            for _ in range(2):
                client, _ = server.accept()
                client.close()
            self.assertIsNone(child.poll())
            self.end(child)

    def test_pipe(self):
        for name in ("p.in", "p.out"):
            os.mkfifo(self.path(name))
        writer = os.open(self.path("p.in"), os.O_RDWR)
        reader = os.open(self.path("p.out"), os.O_RDWR)
        self.addCleanup(os.close, writer)
        self.addCleanup(os.close, reader)
        self.qemu("-serial", "pipe:" + self.path("p"))
        self.assertEqual(os.read(reader, 100), b"running\n")


class Chardev(Case):
    def test_stdio_shared_by_two(self):
        done = self.qemu("-chardev", "stdio,id=c,mux=on", "-serial", "chardev:c", "-serial", "chardev:c")
        self.assertEqual(done.stdout, b"running\n")

    def test_file_appended_and_logged(self):
        spec = f"file,id=c,path={self.path('out')},append=on,logfile={self.path('log')}"
        for _ in range(2):
            self.qemu("-chardev", spec, "-serial", "chardev:c")
        self.assertEqual(pathlib.Path(self.path("out")).read_bytes(), b"running\n" * 2)
        self.assertEqual(pathlib.Path(self.path("log")).read_bytes(), b"running\n")

    def test_file_as_input(self):
        # Sixteen reads of the data register, each after data is there.
        read = b"\xba\xfd\x03\xec\xa8\x01\x74\xfb\xba\xf8\x03\xec\xee"
        self.file("in", b"from a file")
        self.qemu("-chardev", f"file,id=c,path={self.path('out')},input-path={self.path('in')}", "-serial", "chardev:c",
                  code=read * 11 + guests.EXIT)
        self.assertEqual(pathlib.Path(self.path("out")).read_bytes(), b"from a file")

    def test_socket_forms(self):
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
            local.bind(self.path("s"))
            local.listen()
            for form, listener in ((f"host=127.0.0.1,port={server.getsockname()[1]},nodelay=on", server),
                                   (f"path={self.path('s')}", local)):
                listener.settimeout(SECONDS)
                child = self.start("-chardev", f"socket,id=c,{form}", "-serial", "chardev:c")
                client, _ = listener.accept()
                with client:
                    self.talk(client)
                self.end(child)

    def test_ringbuf_null_and_pty_are_made(self):
        for kind in ("ringbuf", "null", "pty"):
            self.qemu("-chardev", f"{kind},id=c", "-serial", "chardev:c")


class Devices(Case):
    def test_debug_exit_takes_base_and_size(self):
        for base, size, value in ((0x501, 1, 0x10), (0x600, 2, 0x1234), (0xF4, 4, 0x01020304)):
            write = {1: guests.outb, 2: guests.outw, 4: guests.outl}[size]
            done = self.husk("qemu", "-accel", "tcg", "-display", "none", "-bios",
                             self.rom(write(base, value), guests.STOP), "-device",
                             f"isa-debug-exit,iobase={base:#x},iosize={size:#x}")
            self.assertEqual(done.returncode, (value << 1 | 1) & 0xFF)

    def test_debug_exit_has_qemus_defaults(self):
        done = self.husk("qemu", "-accel", "tcg", "-display", "none", "-bios",
                         self.rom(guests.outb(0x501, 3), guests.STOP), "-device", "isa-debug-exit")
        self.assertEqual(done.returncode, 7)

    def test_debugcon(self):
        code = b"\xb0\x41\xe6\xe9" + b"\xe4\xe9\xe6\xe9" + guests.EXIT  # write 'A', then what the port reads
        self.assertEqual(self.qemu("-debugcon", "stdio", code=code).stdout, b"A\xe9")
        code = guests.outb(0x402, 0x42) + b"\xec\xee" + guests.EXIT
        done = self.qemu("-chardev", "stdio,id=c", "-device", "isa-debugcon,chardev=c,iobase=0x402,readback=0x21",
                         code=code)
        self.assertEqual(done.stdout, b"B!")

    def test_testdev_loops_back(self):
        # QEMU's hw/misc/pc-testdev.c: what is written to port 0xe0 is read there.
        code = guests.outb(0xE0, 0x5A) + guests.show_port(0xE0) + guests.EXIT
        self.assertEqual(self.qemu("-device", "pc-testdev", "-serial", "stdio", code=code).stdout, b"Z")

    def test_nodefaults_has_no_serial_port(self):
        read = b"\xba\xfd\x03\xec\xe6\xe9" + guests.EXIT
        self.assertEqual(self.qemu("-nodefaults", "-debugcon", "stdio", code=read).stdout, b"\xff")
        self.assertEqual(self.qemu("-debugcon", "stdio", code=read).stdout, b"\x60")


class Clock(Case):
    REGISTERS = (0x09, 0x08, 0x07, 0x04, 0x02)  # year, month, day, hour, minute; in BCD and 24 hours after reset

    def read(self, *arguments):
        code = guests.show_clock(self.REGISTERS) + guests.EXIT
        return self.qemu("-serial", "stdio", *arguments, code=code).stdout.hex()

    def test_a_date(self):
        self.assertEqual(self.read("-rtc", "base=2006-06-17T16:01:21"), "0606171601")
        self.assertEqual(self.read("-rtc", "base=2006-06-17"), "0606170000")

    def test_the_hosts_clock(self):
        for base, clock in (("utc", time.gmtime), ("localtime", time.localtime)):
            os.environ["TZ"] = "Asia/Kathmandu"  # an offset with minutes
            time.tzset()
            try:
                before = time.strftime("%y%m%d%H%M", clock())
                shown = [self.read("-rtc", f"base={base},clock={source}") for source in ("host", "rt", "vm")]
                after = time.strftime("%y%m%d%H%M", clock())
            finally:
                del os.environ["TZ"]
                time.tzset()
            for text in shown:
                self.assertTrue(before <= text <= after, (base, before, text, after))


class Life(Case):
    def test_power_off(self):
        self.assertEqual(self.qemu(code=guests.POWER_OFF, status=0).stderr, b"")
        done = self.husk("run", "--accel", "jit", "--console", "null", "--bios", self.rom(guests.POWER_OFF))
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_reset(self):
        for option in (["-no-reboot"], ["-action", "reboot=shutdown"]):
            self.qemu(*option, code=guests.RESET, status=0)
        # Restarted, the CMOS still holds what was written before; the second time round the guest exits.
        again = b"\xb0\x50\xe6\x70\xe4\x71\x3c\xa5\x74\x06" + b"\xb0\xa5\xe6\x71" + b"\xeb\x06" + guests.EXIT
        self.qemu(code=again + guests.RESET)

    def test_a_guest_that_only_resets_is_not_shown_for_ever(self):
        # A counter in the CMOS lets it exit after 60 resets.
        count = b"\xb0\x50\xe6\x70\xe4\x71\xfe\xc0\xe6\x71\x3c\x3c\x72\x06" + guests.EXIT
        done = self.qemu(code=count + guests.RESET)
        self.assertEqual(done.stderr.count(b"machine reset"), 20)
        self.assertIn(b"further ones are not shown", done.stderr.splitlines()[-1])

    def test_statuses_of_husk_run(self):
        for code, options, status in ((guests.RESET, ["--no-reboot"], 4), (guests.TRIPLE_FAULT, [], 8),
                                      (guests.HALT, [], 8), (guests.STOP, ["--timeout", "300ms"], 124),
                                      (guests.EXIT, ["--device", "isa-debug-exit,iobase=0xf4,iosize=1"], 33)):
            done = self.husk("run", "--accel", "jit", "--console", "null", "--bios", self.rom(code), *options)
            self.assertEqual(done.returncode, status, done.stderr)
            self.assertIn(b"husk: ", done.stderr.splitlines()[-1])
            quiet = self.husk("run", "--accel", "jit", "--console", "null", "--quiet", "--bios", self.rom(code), *options)
            self.assertNotIn(b"husk: ", quiet.stderr.splitlines()[-1] if quiet.stderr else b"")

    def test_pidfile(self):
        child = self.start("-pidfile", self.path("pid"), code=guests.STOP)
        wait_for(lambda: os.path.exists(self.path("pid")) and os.path.getsize(self.path("pid")))
        self.assertEqual(int(pathlib.Path(self.path("pid")).read_text()), child.pid)
        second = self.qemu("-pidfile", self.path("pid"), status=2)
        self.assertIn(self.path("pid").encode(), second.stderr)
        self.end(child)
        self.assertFalse(os.path.exists(self.path("pid")))

    def test_name_is_in_messages(self):
        done = self.husk("run", "--name", "left", "--timeout", "100ms", "--console", "null", "--accel", "jit", "--bios",
                         self.rom(guests.STOP))
        self.assertEqual(done.stderr, b"husk (left): the time-out is over\n")

    def test_gdb_starts_a_machine_that_stands_still(self):
        for option in ("unix:" + self.path("gdb"), None):
            if option:
                child = self.start("-S", "-gdb", option, code=guests.EXIT)
                wait_for(lambda: os.path.exists(self.path("gdb")))
                client = socket.socket(socket.AF_UNIX)
                client.connect(self.path("gdb"))
            else:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", 1234)) == 0:
                        self.skipTest("something else has port 1234")
                child = self.start("-S", "-s", code=guests.EXIT)
                child.stderr.readline()  # it listens
                client = socket.create_connection(("127.0.0.1", 1234))
            with client:
                client.settimeout(SECONDS)
                client.sendall(b"+$?#3f")
                answer = b""
                while b"#" not in answer:
                    answer += client.recv(100)
                self.assertRegex(answer, rb"\+\$[TS]0[25]")
                self.assertIsNone(child.poll())
                client.sendall(b"+$c#63")
                self.assertEqual(child.wait(SECONDS), 33)

    def test_standing_still_for_ever_is_said(self):
        child = self.start("-S", code=guests.EXIT)
        self.assertIn(b"nothing can start them", child.stderr.readline())
        self.end(child)

    def test_options_for_what_is_not_there(self):
        self.qemu("-vga", "none", "-monitor", "none", "-parallel", "none", "-net", "none", "-nic", "none", "-no-user-config",
                  "-no-fd-bootchk", "-sandbox", "off", "-vnc", "none", "-gdb", "none")


class Logs(Case):
    def test_int_logs_exceptions(self):
        done = self.qemu("-no-reboot", "-d", "int", code=guests.TRIPLE_FAULT, status=0)
        self.assertRegex(done.stderr, rb"(?s)#BP.*#(GP|DF)|exception")

    def test_exec_and_cpu_log_instructions(self):
        short = self.qemu("-d", "exec").stderr
        self.assertIn(b"jmp 0x8000", short)
        self.assertNotIn(b"RAX=", short)
        self.assertIn(b"RAX=", self.qemu("-d", "cpu").stderr)

    def test_a_file_takes_them_all(self):
        for items in ("exec", "guest_errors", "exec,guest_errors,nochain,unimp"):
            done = self.qemu("-d", items, "-D", self.path("log"))
            self.assertEqual(done.stderr, b"")
            log = pathlib.Path(self.path("log")).read_bytes()
            self.assertEqual(b"jmp 0x8000" in log, "exec" in items)

    def test_traces_of_husk_run(self):
        for category, word in (("io", b"0x3f8|3f8"), ("exec", b"jmp 0x8000"), ("all", b"jmp 0x8000")):
            done = self.husk("run", "--console", "null", "--bios", self.rom(RUNNING, guests.EXIT), "--trace", category,
                             "--device", "isa-debug-exit,iobase=0xf4,iosize=1")
            self.assertRegex(done.stderr, word)


class Terminal(Case):
    """Its mode is given back however husk ends."""

    def start_on_terminal(self, code, *arguments, until=b"running"):
        self.master, self.slave = os.openpty()
        self.addCleanup(os.close, self.master)
        self.addCleanup(os.close, self.slave)
        self.before = termios.tcgetattr(self.slave)
        words = [HUSK, *(arguments or ["run", "--accel", "jit", "--bios", self.rom(RUNNING, code)])]
        child = subprocess.Popen(words, stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True)
        self.addCleanup(child.kill)
        self.shown = b""
        self.read(until)
        return child

    def read(self, until):
        while until not in self.shown:
            self.assertTrue(select.select([self.master], [], [], SECONDS)[0], self.shown)
            self.shown += os.read(self.master, 1000)

    def check(self, child, status):
        self.assertEqual(child.wait(SECONDS), status)
        self.assertEqual(termios.tcgetattr(self.slave), self.before)

    def test_every_signal_that_kills(self):
        for name in ("INT", "TERM", "HUP", "QUIT", "ABRT", "SEGV", "BUS", "ALRM", "USR1", "USR2", "XCPU", "XFSZ", "VTALRM",
                     "PROF", "SYS"):
            number = getattr(signal, "SIG" + name)
            child = self.start_on_terminal(guests.STOP)
            self.assertNotEqual(termios.tcgetattr(self.slave), self.before)
            child.send_signal(number)
            with self.subTest(signal=name):
                # A sanitizer ends by its own status what it takes for a crash of the program.
                child.wait(SECONDS)
                self.assertEqual(termios.tcgetattr(self.slave), self.before)
                if name in ("INT", "TERM", "HUP", "ALRM", "USR1"):
                    self.assertEqual(child.returncode, -number)

    def test_guests_own_endings(self):
        for code, status in ((guests.TRIPLE_FAULT, 8), (guests.HALT, 8), (guests.POWER_OFF, 0)):
            self.check(self.start_on_terminal(code), status)

    def test_keys(self):
        child = self.start_on_terminal(guests.ECHO)
        os.write(self.master, b"\x01h")
        self.read(b"Ctrl-A x")
        os.write(self.master, b"\x01c")
        self.read(b"nothing else on this terminal to switch to")
        os.write(self.master, b"\x01\x01.")  # Ctrl-A itself
        self.read(b"\x01.")
        os.write(self.master, b"\x01x")
        self.check(child, 12)

    def test_ctrl_c_is_the_guests_behind_the_multiplexer_only(self):
        words = ["qemu", "-accel", "tcg", "-display", "none", "-bios", self.rom(RUNNING, guests.ECHO), "-serial"]
        child = self.start_on_terminal(None, *words, "mon:stdio")
        os.write(self.master, b"a\x03b")
        self.read(b"a\x03b")
        os.write(self.master, b"\x01x")
        self.check(child, 0)
        child = self.start_on_terminal(None, *words, "stdio")
        # Without a controlling terminal the key sends no signal: what counts is that the terminal would send it.
        self.assertTrue(termios.tcgetattr(self.slave)[3] & termios.ISIG)
        child.send_signal(signal.SIGINT)
        self.check(child, 0)

    def test_stopped_before_its_start_it_stands_still_after(self):
        child = self.start_on_terminal(None, "run", "--accel", "jit", "--bios", self.rom(RUNNING, guests.STOP), "--gdb",
                                       "unix:" + self.path("gdb"), "--paused", until=b"gdb server")
        child.send_signal(signal.SIGTSTP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        self.assertEqual(termios.tcgetattr(self.slave), self.before)
        child.send_signal(signal.SIGCONT)
        os.write(self.master, b"\x01h")
        self.read(b"Ctrl-A x")
        self.assertNotIn(b"running", self.shown)
        os.write(self.master, b"\x01x")
        self.check(child, 12)


class BadInput(Case):
    """One message with cause, object and next step; exit status 2; no crash."""

    def refuse(self, wanted, *arguments, program="run"):
        with self.subTest(arguments=arguments):
            done = self.husk(program, *arguments)
            text = done.stderr.decode(errors="replace")
            self.assertEqual((done.returncode, done.stdout), (2, b""), text)
            self.assertEqual(text.count("\n"), 1, text)
            self.assertRegex(text, r"^husk[^:]*: .+; .+\n$")
            self.assertRegex(text, wanted)

    def files(self):
        """name, path, and what the message about it must have, for whatever wants a file."""
        os.mkfifo(self.path("fifo"))
        os.symlink("loop", self.path("loop"))
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(self.path("socket"))
        return [("missing", "No such file"), ("rom/x", "No such file|Not a directory"), ("fifo", "no regular file"),
                ("loop", "symbolic links"), ("socket", "No such device"), (".", "is a directory"), ("empty", "is empty")]

    def test_files_that_are_none(self):
        self.file("empty", b"")
        kernel = str(CACHE / "cloud" / "vmlinuz")
        for name, wanted in self.files():
            self.refuse(wanted, self.path(name))
            self.refuse(wanted, kernel, "--initrd", self.path(name))
            self.refuse(wanted, kernel, "--module", self.path(name))
            self.refuse(wanted, "--bios", self.path(name))
            self.refuse(wanted, "-nographic", "-kernel", self.path(name), program="qemu")
        self.refuse("no regular file", "/dev/zero")

    def test_a_file_that_this_user_may_not_read(self):
        path = self.file("secret", b"x")
        os.chmod(path, 0)
        if os.access(path, os.R_OK):
            self.skipTest("this user may read everything")
        self.refuse("Permission denied", path)

    def test_kernels_that_are_none(self):
        whole = (CACHE / "cloud" / "vmlinuz").read_bytes()
        elf = pathlib.Path("/bin/true").resolve().read_bytes()
        noise = bytes((i * i * 7919 >> 5) & 255 for i in range(100_000))
        for name, content, wanted in (
                ("512", whole[:512], "truncated"), ("4k", whole[:4096], "truncated"),
                ("half", whole[:len(whole) // 2], "truncated"), ("noise", noise, "of no kind that husk knows"),
                ("text", b"#!/bin/sh\nexit\n", "text file"), ("program", elf, "PVH"),
                ("arm64", elf[:18] + b"\xb7\x00" + elf[20:], "AArch64"),
                ("big-endian", elf[:5] + b"\x02" + elf[6:], "big-endian"), ("cut", elf[:64], "(?i)truncated|damaged")):
            self.refuse(wanted, self.file(name, content))

    def test_initrds_that_are_none(self):
        kernel = str(CACHE / "cloud" / "vmlinuz")
        noise = bytes((i * i * 7919 >> 5) & 255 for i in range(100_000))
        # One entry "x" of 4096 bytes, of which 100 are there.
        fields = [1, 0o100644, 0, 0, 1, 0, 4096, 0, 0, 0, 0, 2, 0]
        cut = b"070701" + b"".join(b"%08x" % field for field in fields) + b"x\0" + bytes(100)
        for name, content, wanted in (("noise", noise, "of no kind"), ("text", b"#!/bin/sh\n", "of no kind"),
                                      ("cut", cut, "truncated"),
                                      ("old", b"070707" + bytes(100), "newc")):
            self.refuse(wanted, kernel, "--initrd", self.file(name, content))

    def test_firmware_of_a_wrong_size(self):
        for size in (1, 1000, 0x8000, 0x10001, 17 << 20):
            self.refuse("ROM image has 64 KiB|more than the 16 MiB", "--bios", self.file("rom", bytes(size)))

    def test_too_little_memory(self):
        kernel = str(CACHE / "cloud" / "vmlinuz")
        for size in ("1M", "2M", "8M", "32M"):
            self.refuse("memory", kernel, "--no-initrd", "-m", size)
        for size in ("0", "64K", "2T", "99999999999G", "-1", "lots", "1.0001K", "", "1G,slots=2"):
            self.refuse("memory|size|value", kernel, "--no-initrd", "-m", size)

    def test_malformed_options(self):
        rom = self.rom(guests.EXIT)
        for wanted, *options in (
                ("no-such-option", "--no-such-option"), ("cpus=0", "--cpus", "0"), ("CPUs", "--cpus", "3,sockets=2"),
                ("imaginary", "--cpu", "imaginary"), ("unknown CPU feature", "--cpu", "max,+imaginary"),
                ("not offered", "--cpu", "max,+vmx"), ("cannot give", "--cpu", "Skylake-Server,enforce"),
                ("accelerator", "--accel", "hvf"), ("device", "--device", "warp"), ("iosize", "--device",
                "isa-debug-exit,iosize=3"), ("date", "--rtc", "tomorrow"), ("clock", "--rtc-clock", "sun"),
                ("time", "--timeout", "soon"), ("trace", "--trace", "everything"), ("port", "--gdb", "x"),
                ("character device", "--console", "stdoi"), ("ID|id", "--chardev", "null"),
                ("gdb", "--paused"), ("port forward", "--port", "x"), ("network", "--net", "tap"),
                ("no path", "--vsock", "cid=3"), ("guest-cid of 3", "--vsock", "cid=2,path=/x"),
                ("one argument too many", "extra", "more"), ("value is empty", "--log", "")):
            self.refuse(wanted, "--bios", rom, *options)

    def test_what_cannot_be_opened_is_named(self):
        rom = self.rom(guests.EXIT)
        missing = self.path("missing/x")
        for *options, in (("--pidfile", missing), ("--log", missing), ("--serial", "file:" + missing),
                          ("--serial", "unix:" + missing), ("--serial", "pipe:" + missing),
                          ("--gdb", "unix:" + missing), ("--serial", "tcp:127.0.0.1:1")):
            self.refuse(re.escape(options[1].split(":", 1)[-1] if ":" in options[1] else missing), "--accel", "jit",
                        "--bios", rom, *options)

    def test_truncated_kernels_of_every_length_do_no_harm(self):
        whole = (CACHE / "cloud" / "vmlinuz").read_bytes()
        for length in [*range(0, 0x300, 37), *range(0x300, 0x8000, 4999)]:
            done = self.husk("run", self.file("cut", whole[:length]))
            self.assertEqual(done.returncode, 2, (length, done.stderr))


class Names(Case):
    def test_husk_under_qemus_name(self):
        link = self.path("qemu-system-x86_64")
        os.symlink(HUSK, link)
        done = self.husk("-nographic", "-accel", "tcg", "-bios", self.rom(RUNNING, guests.EXIT), *EXIT_DEVICE, program=link)
        self.assertEqual((done.returncode, done.stdout), (33, b"running\n"), done.stderr)
        wrong = self.husk("-kernle", "x", program=link)
        self.assertRegex(wrong.stderr, rb"^qemu-system-x86_64: .*-kernle.*nearest one it has is -kernel")

    def test_unknown_options_are_refused_with_the_nearest(self):
        for given, nearest in (("-hda", "-drive"), ("-kernal", "-kernel"), ("-boot", "-kernel"), ("-qmp", "-gdb"),
                               ("-serail", "-serial"), ("-no-rebot", "-no-reboot"), ("-cdrom", "-drive")):
            done = self.husk("qemu", given, "x")
            self.assertEqual(done.returncode, 2)
            self.assertIn(f"{nearest};".encode(), done.stderr)
            self.assertIn(given.encode(), done.stderr)


def mapped(*words):
    def run(option):
        child = subprocess.Popen([HUSK, *words, option], stderr=subprocess.DEVNULL)
        assert child.wait(SECONDS) == 33
        os.unlink(f"/tmp/perf-{child.pid}.map")
    return run


class Help(Case):
    """Every option that a help text names works as it says it is written."""

    def check(self, options, samples, run):
        self.assertEqual(set(options), set(samples), "an option without a sample here, or the other way round")
        for option, values in samples.items():
            with self.subTest(option=option):
                run(option, *values)

    def test_husk_run(self):
        exit_device = ["--device", "isa-debug-exit,iobase=0xf4,iosize=1"]
        kernel = str(CACHE / "cloud" / "vmlinuz")
        self.file("disk", bytes(1 << 20))
        rom = self.rom(guests.EXIT)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]

        def with_rom(option, *values):
            done = self.husk("run", "--accel", "jit", "--console", "null", "--bios", rom, *exit_device, option, *values)
            self.assertEqual(done.returncode, 33, done.stderr)

        def with_kernel(option, *values):
            done = self.husk("run", kernel, "--accel", "jit", "--console", "null", "--timeout", "1ms", option, *values)
            self.assertEqual(done.returncode, 124, done.stderr)

        def needs_command(option, *values):
            done = self.husk("run", "--bios", rom, option, *values)
            self.assertEqual(done.returncode, 2)
            self.assertIn(b"there is no command", done.stderr)

        def alone(*words, status):
            def run(option, *values):
                self.assertEqual(self.husk("run", *words, option, *values).returncode, status)
            return run

        machine = ["--accel", "jit", "--bios", rom, *exit_device]
        samples = {
            "--help": (alone(status=0), []), "--memory": (with_rom, ["64M"]), "--cpus": (with_rom, ["2,sockets=2"]),
            "--cpu": (with_rom, ["Haswell,-avx2"]), "--device": (with_rom, ["pc-testdev"]),
            "--accel": (alone("--bios", rom, *exit_device, "--console", "null", status=33), ["jit"]),
            "--kernel-irqchip": (with_rom, ["off"]),
            "--disk": (with_rom, [self.path("disk") + ",format=raw,readonly=on"]), "--net": (with_rom, ["user"]),
            "--port": (with_rom, [f"{port}:22"]), "--vsock": (with_rom, ["path=" + self.path("vsock") + ",cid=4"]),
            "--rtc": (with_rom, ["localtime"]), "--rtc-clock": (with_rom, ["vm"]),
            "--cdrom": (with_rom, [self.path("disk")]),
            "--name": (with_rom, ["a name"]), "--initrd": (with_kernel, [self.file("cpio", b"")]),
            "--no-initrd": (with_kernel, []), "--append": (with_kernel, ["quiet"]), "--exec": (with_kernel, ["true"]),
            "--module": (with_kernel, [self.path("cpio") + " words"]),
            "--bios": (alone("--accel", "jit", *exit_device, "--console", "null", status=33), [rom]),
            "--guest-decompress": (with_kernel, []), "--console": (alone(*machine, status=33), ["null"]),
            "--serial": (with_rom, ["null"]), "--chardev": (with_rom, ["null,id=x"]), "--timeout": (with_rom, ["1m"]),
            "--no-reboot": (with_rom, []), "--pidfile": (with_rom, [self.path("pid")]), "--quiet": (with_rom, []),
            "--gdb": (with_rom, ["unix:" + self.path("gdb")]),
            "--paused": (alone(*machine, "--gdb", "unix:" + self.path("g"), "--timeout", "1ms", "--console", "null",
                               status=124), []),
            "--perf-map": (mapped("run", "--accel", "jit", "--console", "null", "--bios", rom, *exit_device), []),
            "--stats": (with_rom, []), "--trace": (with_rom, ["io"]), "--guest-errors": (with_rom, []), "--log": (with_rom, [self.path("log")]),
        }
        for name, value in (("rw", "/tmp"), ("share", "/tmp:/mnt"), ("overlay", "/tmp"), ("pass-env", "all"),
                            ("cwd", "/"), ("root-user", None), ("modules", "/tmp"), ("verbose", None)):
            samples["--" + name] = (needs_command, [value] if value else [])
        # An archive with nothing but its trailer.
        fields = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 11, 0]
        self.file("cpio", b"070701" + b"".join(b"%08x" % field for field in fields) + b"TRAILER!!!\0\0\0\0")
        listed = re.findall(r"(?m)^ +(?:-\w,)?(--[a-z-]+)", self.husk("run", "--help").stdout.decode())
        self.check(listed, samples, lambda option, run, values: run(option, *values))

    def test_husk_qemu(self):
        rom = self.rom(guests.EXIT)
        kernel = str(CACHE / "cloud" / "vmlinuz")
        self.file("disk", bytes(1 << 20))
        disk = self.path("disk")

        def plain(option, *values, words=()):
            done = self.husk("qemu", "-accel", "tcg", "-display", "none", "-bios", rom, *EXIT_DEVICE, *words, option,
                             *values)
            self.assertEqual(done.returncode, 33, done.stderr)

        def shown(option, *values):
            self.assertEqual(self.husk("qemu", option, *values).returncode, 0)

        def linux(option, *values):
            child = subprocess.Popen([HUSK, "qemu", "-accel", "tcg", "-m", "256", "-display", "none", "-kernel", kernel,
                                      "-pidfile", self.path("up"), option, *values], stderr=subprocess.PIPE)
            self.addCleanup(child.communicate)
            # The pid file is there once everything has been opened.
            wait_for(lambda: os.path.exists(self.path("up")) or child.poll() is not None)
            self.end(child)

        def waits(option, *values):
            child = self.start(option, *values, code=guests.EXIT)
            self.assertIn(b"stand still", child.stderr.readline())
            self.end(child)

        def kvm(option, *values):
            done = self.husk("qemu", "-display", "none", "-bios", rom, *EXIT_DEVICE, option, *values)
            self.assertIn(done.returncode, (33, 2), done.stderr)
            if done.returncode == 2:
                self.assertIn(b"kvm", done.stderr)

        user = ["-netdev", "user,id=n"]
        samples = {
            "-h": (shown, []), "-version": (shown, []), "-machine": (plain, ["micro,accel=tcg"]), "-M": (plain, ["micro"]),
            "-accel": (plain, ["tcg"]), "-enable-kvm": (kvm, []), "-cpu": (plain, ["max,+avx2,-la57,rdseed=off"]),
            "-smp": (plain, ["4,sockets=2,cores=1,threads=2"]), "-m": (plain, ["64"]), "-name": (plain, ["n"]),
            "-kernel": (linux, [kernel]), "-initrd": (linux, [self.file("initrd", b"\x1f\x8b" + bytes(100))]),
            "-append": (linux, ["quiet"]), "-bios": (plain, [rom]), "-serial": (plain, ["null"]),
            "-chardev": (plain, ["null,id=c"]), "-device": (plain, ["pc-testdev"]), "-debugcon": (plain, ["null"]),
            "-nographic": (plain, []), "-display": (plain, ["none"]), "-vga": (plain, ["none"]), "-vnc": (plain, ["none"]),
            "-monitor": (plain, ["none"]), "-parallel": (plain, ["none"]), "-net": (plain, ["none"]),
            "-nic": (plain, ["user,mac=52:54:00:12:34:56"]), "-netdev": (plain, user[1:]),
            "-drive": (plain, [f"file={disk},format=raw,if=virtio,id=d,cache=none,readonly=on"]),
            "-blockdev": (plain, [f"driver=raw,node-name=d,file.driver=file,file.filename={disk}"]),
            "-fsdev": (plain, [f"local,id=f,path={self.directory},readonly=on,security_model=none"]),
            "-virtfs": (plain, [f"local,path={self.directory},mount_tag=t,security_model=none"]),
            "-object": (plain, ["rng-random,id=r,filename=/dev/urandom"]), "-nodefaults": (plain, []),
            "-global": (plain, ["kvm-pit.lost_tick_policy=discard"]),
            "-no-user-config": (plain, []), "-no-fd-bootchk": (plain, []), "-no-reboot": (plain, []),
            "-action": (plain, ["reboot=shutdown"]), "-rtc": (plain, ["base=utc,clock=vm"]), "-S": (waits, []),
            "-gdb": (plain, ["unix:" + self.path("gdb")]), "-s": (plain, []), "-d": (plain, ["int,cpu,exec"]),
            "-D": (plain, [self.path("log")]), "-pidfile": (plain, [self.path("pid")]), "-sandbox": (plain, ["off"]),
            "-perfmap": (mapped("qemu", "-accel", "tcg", "-display", "none", "-bios", rom, *EXIT_DEVICE), []),
        }
        listed = re.findall(r"(?m)^(-[A-Za-z-]+)", self.husk("qemu", "-help").stdout.decode())
        self.check(listed, samples, lambda option, run, values: run(option, *values))

    def test_a_taken_port_of_gdb_is_said(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            done = self.qemu("-gdb", f"tcp::{port}", status=2)
            self.assertRegex(done.stderr, rb"in use; choose another address")


class Cpus(Case):
    """Against QEMU's own description of each model, and Linux's view of a topology."""

    # QEMU's second names, and husk's for the same bit.
    ALIASES = {"pni": "sse3", "xd": "nx", "i64": "lm", "pclmuldq": "pclmulqdq", "3dnowprefetch": "prefetchw",
               "ffxsr": "fxsr-opt", "cr8legacy": "cr8-legacy", "sse4.1": "sse4-1", "sse4.2": "sse4-2"}

    def ask_qemu(self):
        program = shutil.which("qemu-system-x86_64")
        if not program:
            self.skipTest("qemu-system-x86_64 is not installed")
        child = subprocess.Popen([program, "-machine", "none", "-accel", "tcg", "-nodefaults", "-display", "none", "-qmp",
                                  "stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.addCleanup(child.communicate)
        self.addCleanup(child.kill)
        if b'"major": 7' not in child.stdout.readline():
            self.skipTest("this is not QEMU 7, whose models husk has")

        def command(name, **arguments):
            child.stdin.write(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
            child.stdin.flush()
            while True:
                answer = json.loads(child.stdout.readline())
                if "return" in answer or "error" in answer:
                    return answer.get("return")

        command("qmp_capabilities")
        return command

    def test_models_are_qemus(self):
        command = self.ask_qemu()

        def properties(model):
            answer = command("query-cpu-model-expansion", type="full", model={"name": model})
            return answer and answer["model"]["props"]

        def on(props):
            return {self.ALIASES.get(name, name).replace("_", "-") for name, value in props.items() if value is True}

        machinery = on(properties("base"))  # what no CPU has: properties of QEMU itself
        listed = json.loads(self.husk("cpu", "list", "--json").stdout)
        names = {name: model["name"] for model in listed for name in [model["name"], *model["aliases"]]}
        theirs = {entry["name"] for entry in command("query-cpu-definitions")} - {"base", "host", "max"}
        self.assertEqual(theirs - names.keys(), set(), "models that husk has not")
        for name in sorted(theirs):
            props = properties(name)
            mine = json.loads(self.husk("cpu", "show", name, "--json").stdout)
            # QEMU's software CPU has no virtual-8086 extensions, so it switches them off in every model; that there is a
            # hypervisor is no feature of the model.
            features = set(mine["features"]) | set(mine["left-out"])
            with self.subTest(model=name):
                self.assertEqual(features - {"vme"}, on(props) - machinery - {"hypervisor"})
                for key in ("vendor", "family", "model", "stepping"):
                    self.assertEqual(mine[key], props[key])

    def test_what_qemus_users_take_away_can_be_taken_away(self):
        command = self.ask_qemu()
        names = set()
        base = command("query-cpu-model-expansion", type="full", model={"name": "base"})["model"]["props"]
        for entry in command("query-cpu-definitions"):
            answer = command("query-cpu-model-expansion", type="full", model={"name": entry["name"]})
            names |= {name for name, value in answer["model"]["props"].items() if value is True and not base.get(name)}
        names.discard("migratable")  # not the CPU's
        done = self.husk("cpu", "show", ",".join(["max", *(f"-{name}" for name in sorted(names))]))
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_linux_sees_the_topology(self):
        show = ("cd /sys/devices/system/cpu; for c in cpu[0-9]*; do echo T $c $(cat $c/topology/physical_package_id "
                "$c/topology/core_id $c/topology/thread_siblings_list $c/topology/core_siblings_list "
                "$c/cache/index0/shared_cpu_list $c/cache/index3/shared_cpu_list); done; "
                "sort -u /proc/cpuinfo | grep -E '^(siblings|cpu cores)'; dmesg | grep -i 'firmware bug'")
        for model in ("max", "Skylake-Client", "Skylake-Client,level=0x1f"):
            for sockets, cores, threads in ((2, 2, 2), (1, 3, 2)):
                count = sockets * cores * threads
                done = self.husk("run", str(CACHE / "cloud" / "vmlinuz"), "--accel", "jit", "--cpu", model, "--cpus",
                                 f"{count},sockets={sockets},cores={cores},threads={threads}", "--exec", show)
                text = done.stdout.decode(errors="replace").replace("\r", "")
                with self.subTest(model=model, topology=(sockets, cores, threads)):
                    self.assertEqual(done.returncode, 0, text[-2000:])
                    for index in range(count):
                        core = index - index % threads
                        socket_ = index - index % (cores * threads)
                        thread_list = f"{core}-{core + threads - 1}"
                        core_list = f"{socket_}-{socket_ + cores * threads - 1}"
                        self.assertIn(f"T cpu{index} {index // (cores * threads)} {index // threads % cores} "
                                      f"{thread_list} {core_list} {thread_list} {core_list}\n", text)
                    self.assertRegex(text, rf"siblings\t: {cores * threads}\n")
                    self.assertRegex(text, rf"cpu cores\t: {cores}\n")
                    self.assertNotRegex(text, r"(?i)firmware bug\]")


if __name__ == "__main__":
    HUSK = os.path.abspath(sys.argv[1])
    CACHE = pathlib.Path(sys.argv[2])
    unittest.main(argv=[sys.argv[0]] + sys.argv[3:], verbosity=2)
