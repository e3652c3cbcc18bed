#!/usr/bin/env python3
# husk: runs commands in guests with `husk run -- COMMAND`, and compares with what they do on the host
"""usage: test_command.py HUSK CACHE [unittest arguments]. CACHE is what tools/fetch-guest has filled."""
import fcntl
import hashlib
import http.server
import os
import pathlib
import pty
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest

HUSK = CACHE = None
TIMEOUT = int(os.environ.get("HUSK_TEST_TIMEOUT", "240"))
NOBODY = 65534


KIND, MODULES = "cloud", []  # what run() boots


def kernel(kind="cloud"):
    return str(CACHE / kind / "vmlinuz")


def run(*arguments, data=b"", cwd=None, env=None, user=None):
    """Runs husk and returns (status, output, error output)."""
    extra = {"user": user, "group": user, "extra_groups": []} if user is not None else {}
    done = subprocess.run([HUSK, "run", kernel(KIND), *MODULES, *arguments], input=data, capture_output=True, timeout=TIMEOUT, cwd=cwd, env=env,
                          **extra)
    return done.returncode, done.stdout, done.stderr


class Streams(unittest.TestCase):
    def test_prints_what_the_command_prints_and_nothing_else(self):
        self.assertEqual(run("--", "uname", "-r"), (0, (CACHE / "cloud/version").read_bytes(), b""))

    def test_status_is_the_commands_and_streams_are_apart(self):
        self.assertEqual(run("--", "sh", "-c", "echo out; echo err >&2; exit 7"), (7, b"out\n", b"err\n"))

    def test_bytes_pass_both_ways_unchanged_to_their_end(self):
        data = random.Random(3).randbytes((3 << 20) + 17)
        status, out, err = run("--", "sh", "-c", "tee /dev/stderr; test ! -t 0 -a ! -t 1 -a ! -t 2", data=data)
        self.assertEqual((status, hashlib.sha256(out).digest(), hashlib.sha256(err).digest()),
                         (0, hashlib.sha256(data).digest(), hashlib.sha256(data).digest()))

    def test_a_command_that_nobody_reads_gets_sigpipe(self):
        husk = subprocess.Popen([HUSK, "run", kernel(), "--", "sh", "-c", "yes; echo $? >&2"], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self.assertEqual(husk.stdout.read(4), b"y\ny\n")
        husk.stdout.close()
        self.assertEqual(husk.stderr.read(), b"141\n")
        husk.stderr.close()
        self.assertEqual(husk.wait(TIMEOUT), 0)

    def test_input_that_never_ends_does_not_hold_the_end_up(self):
        read, write = os.pipe()
        done = subprocess.run([HUSK, "run", kernel(), "--", "echo", "done"], stdin=read, capture_output=True, timeout=TIMEOUT)
        os.close(read)
        os.close(write)
        self.assertEqual((done.returncode, done.stdout), (0, b"done\n"))

    def test_children_left_behind_do_not_hold_the_end_up(self):
        self.assertEqual(run("--", "sh", "-c", "sleep 1000 & echo last"), (0, b"last\n", b""))

    def test_a_file_as_output_gets_all_of_it(self):
        with tempfile.NamedTemporaryFile() as file:
            subprocess.run([HUSK, "run", kernel(), "--", "seq", "1", "200000"], stdin=subprocess.DEVNULL, stdout=file, check=True,
                           timeout=TIMEOUT)
            self.assertEqual(pathlib.Path(file.name).read_text(), "".join(f"{i}\n" for i in range(1, 200001)))


class Files(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="husk-command-"))
        self.folder.chmod(0o777)
        self.addCleanup(shutil.rmtree, self.folder, True)

    def test_runs_as_the_same_user_in_the_same_directory(self):
        (self.folder / "file").write_text("of the host\n")
        status, out, err = run("--", "sh", "-c", "id -u; id -g; id -G; pwd; umask; cat file", cwd=self.folder, user=NOBODY)
        expected = subprocess.run(["sh", "-c", "id -u; id -g; id -G; pwd; umask; cat file"], cwd=self.folder, capture_output=True,
                                  user=NOBODY, group=NOBODY, extra_groups=[], check=True).stdout
        self.assertEqual((status, out, err), (0, expected, b""))

    def test_an_unprivileged_user_works_with_files_as_on_the_host(self):
        script = "set -e; mkdir sub; echo text > sub/a; ln -s a sub/l; ln sub/a sub/h; mv sub/h sub/i; cat sub/l sub/i; ls -l /root || true"
        status, out, err = run("--rw", str(self.folder), "--", "sh", "-c", script, cwd=self.folder, user=NOBODY)
        self.assertEqual((status, out), (0, b"text\ntext\n"), err)
        self.assertIn(b"ermission denied", err)
        status = (self.folder / "sub/i").stat()
        self.assertEqual((status.st_uid, status.st_nlink), (NOBODY, 2))
        self.assertEqual(os.readlink(self.folder / "sub/l"), "a")

    def test_what_is_written_stays_in_the_guest(self):
        (self.folder / "kept").write_text("old\n")
        status, out, err = run("--", "sh", "-c", "echo new > kept; rm -f gone; echo x > added; cat kept added; rm kept; ls",
                               cwd=self.folder)
        self.assertEqual((status, out), (0, b"new\nx\nadded\n"), err)
        self.assertEqual([(path.name, path.read_text()) for path in self.folder.iterdir()], [("kept", "old\n")])

    def test_writable_and_shared_directories_are_the_hosts(self):
        real, other = self.folder / "real", self.folder / "other"
        real.mkdir()
        other.mkdir()
        (other / "file").write_text("shared\n")
        status, out, err = run("--rw", str(real), "--share", f"{other}:/mnt/a:ro", "--share", f"{other}:/mnt/new/b", "--", "sh", "-c",
                               f"echo 1 > {real}/made; cat /mnt/a/file; echo 2 > /mnt/a/no; echo 3 > /mnt/new/b/yes; ls /mnt/a")
        self.assertEqual((status, out), (0, b"shared\nfile\nyes\n"), err)
        self.assertIn(b"ead-only file system", err)
        self.assertEqual((real / "made").read_text(), "1\n")
        self.assertEqual((other / "yes").read_text(), "3\n")
        self.assertFalse((other / "no").exists())

    def test_an_overlay_keeps_changes_for_the_next_run(self):
        upper = self.folder / "upper"
        upper.mkdir()
        where = self.folder / "place"
        where.mkdir()
        (where / "old").write_text("old\n")
        first = run("--overlay", str(upper), "--", "sh", "-c", "echo new > new; rm old", cwd=where)
        second = run("--overlay", str(upper), "--", "sh", "-c", "cat new; ls", cwd=where)
        self.assertEqual(first, (0, b"", b""))
        self.assertEqual(second, (0, b"new\nnew\n", b""))
        self.assertEqual([path.name for path in where.iterdir()], ["old"])

    def test_environment_is_clean_unless_told_otherwise(self):
        env = {"PATH": "/usr/bin:/bin", "HOME": "/h", "USER": "u", "TERM": "t", "LANG": "C", "SECRET": "1", "A": "2", "B": "3"}
        script = "env | grep -v '^_=\\|^PWD=\\|^SHLVL=' | sort"
        usual = b"HOME=/h\nLANG=C\nPATH=/usr/bin:/bin\nTERM=t\nUSER=u\n"
        self.assertEqual(run("--", "sh", "-c", script, env=env), (0, usual, b""))
        status, out, _ = run("--pass-env", "A", "--pass-env", "B=x=y", "--", "sh", "-c", script, env=env)
        self.assertEqual(out, b"A=2\nB=x=y\n" + usual)
        status, out, _ = run("--pass-env", "all", "--", "sh", "-c", script, env=env)
        self.assertEqual(out, b"A=2\nB=3\nHOME=/h\nLANG=C\nPATH=/usr/bin:/bin\nSECRET=1\nTERM=t\nUSER=u\n")

    def test_the_guests_own_places_are_its_own(self):
        script = ("ls -A /tmp | wc -l; ls -A /run | wc -l; for d in /tmp /run /dev/shm /proc /sys /dev/pts; do stat -f -c %T $d; done; "
                  "id -u; cat /dev/stdin; echo x > /dev/null; head -c 2 /dev/zero | wc -c; hostname")
        status, out, err = run("--root-user", "--name", "guest-1", "--", "sh", "-c", script, cwd="/", user=NOBODY, data=b"in\n")
        self.assertEqual((status, out.decode().split("\n"), err),
                         (0, "0 0 tmpfs tmpfs tmpfs proc sysfs devpts 0 in 2 guest-1".split() + [""], b""))


class FilesByNinep(Files):
    """The same with a kernel that has 9p and no virtio-fs."""

    @classmethod
    def setUpClass(cls):
        global KIND, MODULES
        cls.tree = tempfile.mkdtemp(prefix="husk-modules-")
        cls.addClassCleanup(shutil.rmtree, cls.tree, True)
        os.chmod(cls.tree, 0o755)
        for file in (CACHE / "generic/modules").iterdir():
            if file.name in ("modules.order", "modules.dep", "modules.builtin"):
                kept = [line for line in file.read_text().splitlines(True) if "virtiofs" not in line]
                pathlib.Path(cls.tree, file.name).write_text("".join(kept))
            else:
                os.symlink(file, f"{cls.tree}/{file.name}")
        KIND, MODULES = "generic", ["--modules", cls.tree]

    @classmethod
    def tearDownClass(cls):
        global KIND, MODULES
        KIND, MODULES = "cloud", []

    def test_the_root_is_mounted_by_9p(self):
        status, out, err = run("--share", f"{self.folder}:/mnt", "--", "sh", "-c", "grep -c ' 9p ' /proc/mounts; grep virtiofs /proc/mounts")
        self.assertEqual((status, out, err), (1, b"1\n", b""))


class Endings(unittest.TestCase):
    def test_commands_that_cannot_run_give_a_shells_statuses(self):
        status, out, err = run("--", "/no/such/command")
        self.assertEqual((status, out), (127, b""))
        self.assertIn(b"cannot run '/no/such/command': no such file or directory", err)
        self.assertEqual(run("--", "/etc/passwd")[0], 126)
        self.assertEqual(run("--", "no-such-command-anywhere")[0], 127)

    def test_death_by_a_signal_gives_its_number(self):
        self.assertEqual(run("--", "sh", "-c", "kill -9 $$")[0], 137)

    def interrupted(self, script, *signals):
        husk = subprocess.Popen([HUSK, "run", kernel(), "--", "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)
        self.assertEqual(husk.stdout.readline(), b"ready\n")
        for one in signals:
            husk.send_signal(one)
        out, err = husk.communicate(timeout=TIMEOUT)
        return husk.returncode, out, err

    def test_an_interrupt_reaches_the_command_which_may_take_it(self):
        result = self.interrupted("trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done", signal.SIGINT)
        self.assertEqual(result, (5, b"caught\n", b""))

    def test_an_interrupt_that_kills_the_command_kills_husk(self):
        self.assertEqual(self.interrupted("echo ready; exec sleep 1000", signal.SIGINT)[0], -signal.SIGINT)

    def test_sigterm_ends_husk_whatever_the_command_does(self):
        self.assertEqual(self.interrupted("trap '' TERM INT; echo ready; while :; do :; done", signal.SIGTERM)[0], -signal.SIGTERM)

    def test_time_out(self):
        status, out, err = run("--timeout", "6", "--", "sh", "-c", "sleep 1000")
        self.assertEqual((status, out), (124, b""))
        self.assertEqual(err, b"husk: the time-out is over\n")

    def test_a_panic_shows_the_kernels_words(self):
        status, out, err = run("--root-user", "--", "sh", "-c", "echo before; echo c > /proc/sysrq-trigger")
        self.assertEqual((status, out), (120, b"before\n"), err)
        self.assertIn(b"Kernel panic - not syncing: sysrq triggered crash", err)
        self.assertIn(b"Call Trace", err)
        self.assertTrue(err.endswith(b"husk: the guest panicked\n"))

    def test_a_guest_that_switches_itself_off_is_no_success(self):
        status, _, err = run("--root-user", "--", "sh", "-c", "echo o > /proc/sysrq-trigger; sleep 1000")
        self.assertEqual(status, 123, err)

    def test_a_kernel_without_the_drivers_is_refused_with_the_reason(self):
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "modules.order").write_text("")
            (pathlib.Path(folder) / "modules.builtin").write_text("kernel/drivers/virtio/virtio_pci.ko\n")
            status, _, err = run("--modules", folder, "--", "true")
        self.assertEqual(status, 125)
        self.assertIn(b"has no virtio_console, neither built in nor in " + folder.encode(), err)
        # One that does not say what is built in is believed, until the guest finds out.
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "modules.order").write_text("")
            status, _, err = run("--modules", folder, "--", "true")
        self.assertEqual(status, 125)
        self.assertIn(b"console ports (CONFIG_VIRTIO_PCI, CONFIG_VIRTIO_CONSOLE)", err)

    def test_a_directory_that_is_not_there_is_said(self):
        self.assertEqual(run("--cwd", "/no/such", "--", "true"),
                         (125, b"", b"husk: cannot go into the directory '/no/such': no such file or directory\n"))
        self.assertEqual(run("--rw", "/no/such", "--", "true")[0], 2)
        self.assertEqual(run("--share", "/etc:relative", "--", "true")[0], 2)
        self.assertEqual(run("--rw", "/etc")[0], 2)
        self.assertEqual(run("--")[0], 2)


class Terminal(unittest.TestCase):
    def test_a_shell_on_a_terminal_is_interactive(self):
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 97, 0, 0))
        before = termios.tcgetattr(slave)
        husk = subprocess.Popen([HUSK, "run", kernel(), "--pass-env", "PS1", "--", "bash", "--norc", "-i"], stdin=slave, stdout=slave, stderr=slave,
                                start_new_session=True, env={"PATH": os.environ["PATH"], "TERM": "vt100", "PS1": "@@ ", "HOME": "/"})
        seen = b""

        def expect(text):
            nonlocal seen
            end = time.monotonic() + TIMEOUT
            while text not in seen:
                self.assertTrue(select.select([master], [], [], end - time.monotonic())[0], seen)
                seen += os.read(master, 4096)
            part, seen = seen.split(text, 1)
            return part

        # Each line is typed at its prompt: what comes while bash changes the terminal's mode may be lost, as on any Linux.
        def enter(line):
            expect(b"@@ ")
            os.write(master, line + b"\r")
            expect(line + b"\r\n")

        enter(b"stty size; tty; [ -t 0 -a -t 1 -a -t 2 ] && echo all-$((1+1))")
        self.assertIn(b"31 97\r\n/dev/pts/0\r\n", expect(b"all-2\r\n"))
        enter(b"sh -c 'echo up-$((1+1)); exec sleep 1000'")
        expect(b"up-2\r\n")
        os.write(master, b"\x03")  # Ctrl-C ends sleep alone
        enter(b"echo $?-back")
        expect(b"130-back\r\n")
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        husk.send_signal(signal.SIGWINCH)
        enter(b"until stty size | grep -q '40 120'; do sleep 0.1; done; echo big-$((3+1))")
        expect(b"big-4\r\n")
        expect(b"@@ ")
        os.write(master, b"exit 9\r")
        self.assertEqual(husk.wait(TIMEOUT), 9)
        self.assertEqual(termios.tcgetattr(slave), before)

    def test_the_escape_sequence_ends_husk(self):
        master, slave = pty.openpty()
        husk = subprocess.Popen([HUSK, "run", kernel(), "--", "sh", "-c", "echo ready; sleep 1000"], stdin=slave, stdout=slave,
                                stderr=slave, start_new_session=True)
        seen = b""
        while b"ready" not in seen:
            seen += os.read(master, 4096)
        os.write(master, b"\r~.")
        self.assertEqual(husk.wait(TIMEOUT), 122)


class Machine(unittest.TestCase):
    def test_generic_kernel(self):
        done = subprocess.run([HUSK, "run", kernel("generic"), "--", "uname", "-r"], stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=TIMEOUT)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, (CACHE / "generic/version").read_bytes(), b""))

    def test_several_processors(self):
        self.assertEqual(run("--cpus", "2", "--", "nproc"), (0, b"2\n", b""))

    def test_a_disk_is_the_users(self):
        with tempfile.NamedTemporaryFile() as image:
            os.chown(image.name, NOBODY, NOBODY)
            image.truncate(1 << 20)
            result = run("--disk", image.name + ",format=raw", "--", "sh", "-c", "printf marked > /dev/vda; blockdev --getsize64 /dev/vda", user=NOBODY)
            self.assertEqual((result[0], result[1]), (0, b"1048576\n"), result[2])
            self.assertEqual(pathlib.Path(image.name).read_bytes()[:6], b"marked")

    def test_closed_streams_do_not_end_up_in_a_disk(self):
        with tempfile.NamedTemporaryFile() as image:
            image.truncate(1 << 16)
            done = subprocess.run(["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', HUSK, "run", kernel(), "--disk", image.name + ",format=raw",
                                   "--", "sh", "-c", "cat; echo output; echo error >&2"], timeout=TIMEOUT)
            self.assertEqual((done.returncode, pathlib.Path(image.name).read_bytes()), (0, bytes(1 << 16)))

    def test_network_is_set_up(self):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"from the host\n")

            def log_message(self, *arguments):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        program = f"import urllib.request as u; print(u.urlopen('http://10.0.2.2:{server.server_port}/').read())"
        status, out, err = run("--net", "user", "--", sys.executable, "-c", program)
        self.assertEqual((status, out), (0, b"b'from the host\\n'\n"), err)

    def test_modules_that_the_host_has_elsewhere_are_where_modprobe_looks(self):
        version = (CACHE / "cloud/version").read_text().strip()
        files = {path.stem: path for path in (CACHE / "cloud/modules/kernel").rglob("*.ko")}
        needed = {"virtio_ring": [], "virtio": ["virtio_ring"], "virtio_pci_modern_dev": [], "virtio_pci_legacy_dev": [],
                  "virtio_pci": ["virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio", "virtio_ring"],
                  "virtio_console": ["virtio", "virtio_ring"], "fuse": [], "virtiofs": ["fuse", "virtio", "virtio_ring"],
                  "overlay": []}
        with tempfile.TemporaryDirectory() as folder:
            lines = [f"{files[name]}: {' '.join(str(files[one]) for one in others)}\n" for name, others in needed.items()]
            (pathlib.Path(folder) / "modules.dep").write_text("".join(lines))
            result = run("--modules", folder, "--", "cat", f"/lib/modules/{version}/modules.dep")
            self.assertEqual(result, (0, "".join(lines).encode(), b""))

    def test_verbose_shows_the_kernel_on_standard_error(self):
        status, out, err = run("--verbose", "--", "echo", "hello")
        self.assertEqual((status, out), (0, b"hello\n"))
        self.assertIn(b"Linux version", err)


if __name__ == "__main__":
    HUSK, CACHE = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
    if not (CACHE / "cloud/vmlinuz").exists():
        print(f"SKIPPED: {CACHE} lacks a kernel; tools/fetch-guest gets one")
        sys.exit(0)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
