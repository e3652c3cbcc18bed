#!/usr/bin/env python3
# husk: runs posix_operations.py in shared folders of guests and on the host, and compares
"""usage: test_share.py HUSK CACHE [unittest arguments]. CACHE is what tools/fetch-guest has filled."""
import fcntl
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "virtio"))
import test_virtio  # noqa: E402: its initramfs, for guests that `husk qemu` starts

HUSK = CACHE = None
TIMEOUT = int(os.environ.get("HUSK_TEST_TIMEOUT", "240"))
# One that every user of the host may run.
PYTHON = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
OPERATIONS = pathlib.Path(__file__).with_name("posix_operations.py")
NOBODY = 65534


class Operations:
    def compare(self, *options, user=None):
        """The same program by the same user, in a share of a guest and beside it on the host."""
        who = {"user": user, "group": user, "extra_groups": []} if user is not None else {}
        with tempfile.TemporaryDirectory(dir="/var/tmp") as base:
            program = OPERATIONS.read_text()
            os.chmod(base, 0o755)
            for name in ("native", "share"):
                os.mkdir(f"{base}/{name}")
                if user is not None:
                    os.chown(f"{base}/{name}", user, user)
            native = subprocess.run([PYTHON, "-c", program, f"{base}/native"], capture_output=True, text=True,
                                    timeout=TIMEOUT, **who)
            self.assertEqual(native.stderr, "")
            self.maxDiff = None
            self.assertEqual(self.in_guest(base, program, options, user, who),
                             [self.compared(line) for line in native.stdout.splitlines()])
            # What is left must be the same to the host's eyes.
            def tree(top):
                found = {str(path.relative_to(top)): path.lstat() for path in pathlib.Path(top).rglob("*")}
                return {name: (stat.filemode(info.st_mode), info.st_nlink, info.st_uid, stat.S_ISDIR(info.st_mode) or info.st_size)
                        for name, info in found.items()}
            self.assertEqual(tree(f"{base}/share"), tree(f"{base}/native"))


class Share(Operations, unittest.TestCase):
    def compared(self, line):
        return line

    def in_guest(self, base, program, options, user, who):
        """What the program prints, run by this user in base/share."""
        done = subprocess.run([HUSK, "run", str(CACHE / "cloud/vmlinuz"), *options, "--share", f"{base}/share:/mnt", "--",
                               PYTHON, "-c", program, "/mnt"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=TIMEOUT, **who)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout.splitlines()

    def test_files_of_a_share_behave_as_the_hosts(self):
        self.compare()

    @unittest.skipUnless(os.geteuid() == 0, "only root can become another user")
    def test_files_of_a_share_behave_as_the_hosts_for_an_ordinary_user(self):
        self.compare(user=NOBODY)


class Ninep(Operations, unittest.TestCase):
    """The same by virtio-9p, which Debian's cloud kernel lacks."""

    # What Linux 6.1's client does by itself, whatever the server: it asks for no holes, cuts times to seconds, reads past
    # its own mapped pages (cache=mmap), and 9P has no files without a name.
    CLIENTS_OWN = {"hole": "False", "times": "(1000000000000000000, 2000000000000000000)", "link's time": "0",
                   "file's time": "2000000000000000000", "read sees map": "b'aaaaaa'", "unnamed": "'ENOTSUP'"}

    def compared(self, line):
        name = line.split(": ", 1)[0]
        return f"{name}: {self.CLIENTS_OWN[name]}" if name in self.CLIENTS_OWN else line

    def in_guest(self, base, program, options, user, who):
        pathlib.Path(base, "program.py").write_text(program)
        # The host's Python in the host's root, which is mounted read-only by 9p as well.
        python = (f"import os, sys; os.setgroups([]); os.setgid({user or 0}); os.setuid({user or 0}); "
                  f"os.execv('{PYTHON}', ['{PYTHON}', '/mnt/program.py', '/mnt/share'])")
        mount = "mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=mmap" + "".join(options)
        script = (f"{mount},ro host /mnt && {mount} base /mnt/mnt || echo NOT-MOUNTED\n"
                  "mount -t proc proc /mnt/proc; mount -t devtmpfs dev /mnt/dev; mount -t tmpfs -o mode=1777 tmp /mnt/tmp\n"
                  f"echo BEGIN; chroot /mnt {PYTHON} -c \"{python}\"; echo END $?; umount /mnt/mnt && echo UNMOUNTED")
        with tempfile.NamedTemporaryFile(suffix=".cpio") as initrd:
            command = test_virtio.guest_command(
                initrd, script, ["-virtfs", "local,path=/,mount_tag=host,readonly=on", "-virtfs", f"local,path={base},mount_tag=base"],
                1, "", "generic")
            os.chmod(initrd.name, 0o644)
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT, **who)
        text = done.stdout.replace("\r", "")
        self.assertIn("UNMOUNTED", text, done.stderr)
        self.assertIn("END 0\n", text)
        return text.split("BEGIN\n", 1)[1].split("END 0\n", 1)[0].splitlines()

    def test_files_of_a_share_behave_as_the_hosts(self):
        self.compare()

    @unittest.skipUnless(os.geteuid() == 0, "only root can become another user")
    def test_files_of_a_share_behave_as_the_hosts_for_an_ordinary_user(self):
        self.compare(user=NOBODY)

    # The host holds the lock until the file `go` is there.
    WAITS = r"""
import fcntl, os, signal, sys, time
os.chdir(sys.argv[1])
def lock():
    fcntl.lockf(file, fcntl.LOCK_EX)
file = open("lock", "r+")
try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError as error:
    print("held", type(error).__name__, flush=True)
child = os.fork()
if child == 0:
    lock()
    os._exit(0)
time.sleep(0.3)
print("child waits", os.waitpid(child, os.WNOHANG)[0] == 0, flush=True)
os.kill(child, signal.SIGKILL)
print("killed", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
open("go", "w").close()
start = time.monotonic()
lock()
print("soon", time.monotonic() - start < 10, flush=True)
"""

    def test_a_wait_for_a_lock_of_the_host_ends_soon_after_it_and_by_a_kill(self):
        with tempfile.TemporaryDirectory(dir="/var/tmp") as base:
            os.mkdir(base + "/share")
            with open(base + "/share/lock", "w") as file:
                fcntl.lockf(file, fcntl.LOCK_EX)
                ended = threading.Event()

                def let_go():
                    while not os.path.exists(base + "/share/go") and not ended.wait(0.1):
                        pass
                    fcntl.lockf(file, fcntl.LOCK_UN)
                holder = threading.Thread(target=let_go)
                holder.start()
                try:
                    shown = self.in_guest(base, self.WAITS, (), None, {})
                finally:
                    ended.set()
                    holder.join()
        self.assertEqual(shown, ["held BlockingIOError", "child waits True", "killed -9", "soon True"])


if __name__ == "__main__":
    HUSK = os.path.abspath(sys.argv[1])
    CACHE = pathlib.Path(sys.argv[2]).resolve()
    test_virtio.HUSK, test_virtio.CACHE = HUSK, CACHE
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
