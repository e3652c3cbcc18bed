#!/usr/bin/env python3
# husk: --stats, --perf-map and dumps of translated code, on a kernel that boots
"""usage: test_figures.py HUSK CACHE [unittest arguments]"""
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import unittest

HUSK = CACHE = None


def start(*options, script="echo hi", cpus=1):
    command = [HUSK, "run", str(CACHE / "cloud" / "vmlinuz"), "--accel", "jit", "--cpus", str(cpus), "--timeout", "240",
               "--exec", script, *options]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env=dict(os.environ, HUSK_GUESTS=str(CACHE)))


def figure(text, name):
    """The sum of a figure, in its unit."""
    found = re.search(rf"^  {re.escape(name)} +([0-9.]+)", text, re.MULTILINE)
    return float(found[1]) if found else None


class Figures(unittest.TestCase):
    def test_figures_of_a_boot_are_plausible(self):
        process = start("--stats", cpus=2)
        _, error = process.communicate()
        text = error.decode()
        self.assertEqual(process.returncode, 0, text)
        self.assertIn("accelerator jit, 2 CPUs", text)
        self.assertGreater(figure(text, "blocks"), 10_000)
        self.assertGreater(figure(text, "translated instructions"), 50_000_000)
        self.assertGreater(figure(text, "page walks"), 1000)
        self.assertGreater(figure(text, "table misses"), 1000)
        self.assertGreater(figure(text, "slot misses"), 1000)
        # Linux's alternatives and static keys patch code thousands of times.
        self.assertGreater(figure(text, "blocks dropped, their code was written"), 100)
        # Only a kernel under a hypervisor reads the time-stamp counter and ports so often.
        self.assertRegex(text, r"OUT \(not translated\) +\d{4}")
        entries = figure(text, "into translated code")
        reasons = sum(figure(text, name) for name in ("event seen by the code", "event", "exception", "halt",
                                                      "single steps and shadows", "running code written", "cache full",
                                                      "code for the interpreter"))
        self.assertAlmostEqual(entries, reasons, delta=2)
        shares = [float(share) for share in re.findall(r"^  (?:in|translating|interpreting|looking|walking|idle)[a-z ]* +([0-9.]+) %",
                                                       text.split("time, by")[1], re.MULTILINE)]
        self.assertAlmostEqual(sum(shares), 100, delta=1)

    def test_usr1_shows_them_while_the_guest_runs(self):
        process = start("--stats", script="echo waiting; while true; do :; done")
        for line in process.stdout:
            if line.startswith(b"waiting"):
                break
        process.send_signal(signal.SIGUSR1)
        for line in process.stderr:
            if line.startswith(b"accelerator jit"):
                break
        else:
            self.fail("no figures")
        self.assertIsNone(process.poll(), "the guest ran on")
        process.terminate()
        process.communicate()

    def test_map_names_the_kernels_functions(self):
        process = start("--perf-map")
        process.communicate()
        path = pathlib.Path(f"/tmp/perf-{process.pid}.map")
        lines = path.read_text().splitlines()
        path.unlink()
        for line in lines:
            self.assertRegex(line, r"^[0-9a-f]+ [0-9a-f]+ (guest|husk):")
        self.assertTrue(any("guest:start_kernel" in line for line in lines))
        self.assertTrue(any("husk:shared code of cpu0" in line for line in lines))

    def test_dumps_show_both_sides_of_a_translation(self):
        with tempfile.TemporaryDirectory() as folder:
            process = start("--trace", "in_asm,out_asm", "--log", folder + "/log")
            process.communicate()
            text = pathlib.Path(folder, "log").read_text()
        self.assertIn("<start_kernel>", text)
        self.assertRegex(text, r"cpu0 in_asm 0xffffffff[0-9a-f]+ <")
        self.assertRegex(text, r"cpu0 out_asm 0xffffffff[0-9a-f]+ <")
        self.assertIn("gs:[page_base]", text)
        self.assertNotIn("(bad)", text)

    def test_interpreter_refuses_what_it_cannot_show(self):
        command = [HUSK, "run", str(CACHE / "cloud" / "vmlinuz"), "--accel", "interp", "--trace", "out_asm", "--timeout", "9"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("translates no code", done.stderr.decode())


if __name__ == "__main__":
    HUSK = os.path.abspath(sys.argv[1])
    CACHE = pathlib.Path(sys.argv[2]).resolve()
    unittest.main(argv=[sys.argv[0]] + sys.argv[3:], verbosity=2)
