#!/usr/bin/env python3
# husk: runs posix_operations.py in shared folders of guests and on the host, and compares
"""usage: test_share.py HUSK CACHE [unittest arguments]. CACHE is what tools/fetch-guest has filled."""
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tempfile
import unittest

HUSK = CACHE = None
TIMEOUT = int(os.environ.get("HUSK_TEST_TIMEOUT", "240"))
# One that every user of the host may run.
PYTHON = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
OPERATIONS = pathlib.Path(__file__).with_name("posix_operations.py")
NOBODY = 65534


class Share(unittest.TestCase):
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
            guest = subprocess.run([HUSK, "run", str(CACHE / "cloud/vmlinuz"), *options, "--share", f"{base}/share:/mnt", "--",
                                    PYTHON, "-c", program, "/mnt"], stdin=subprocess.DEVNULL, capture_output=True,
                                   text=True, timeout=TIMEOUT, **who)
            self.maxDiff = None
            self.assertEqual(guest.stdout.splitlines(), native.stdout.splitlines())
            self.assertEqual((guest.returncode, guest.stderr), (0, ""))
            # What is left must be the same to the host's eyes.
            def tree(top):
                found = {str(path.relative_to(top)): path.lstat() for path in pathlib.Path(top).rglob("*")}
                return {name: (stat.filemode(info.st_mode), info.st_nlink, info.st_uid, stat.S_ISDIR(info.st_mode) or info.st_size)
                        for name, info in found.items()}
            self.assertEqual(tree(f"{base}/share"), tree(f"{base}/native"))

    def test_files_of_a_share_behave_as_the_hosts(self):
        self.compare()

    @unittest.skipUnless(os.geteuid() == 0, "only root can become another user")
    def test_files_of_a_share_behave_as_the_hosts_for_an_ordinary_user(self):
        self.compare(user=NOBODY)


if __name__ == "__main__":
    HUSK = os.path.abspath(sys.argv[1])
    CACHE = pathlib.Path(sys.argv[2]).resolve()
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
