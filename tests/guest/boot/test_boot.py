#!/usr/bin/env python3
# husk: boots Debian's kernels and checks what they print, how they end, and what husk does with bad input
"""usage: test_boot.py HUSK CACHE [unittest arguments]. CACHE is what tools/fetch-guest has filled."""
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HUSK = CACHE = None
BOOT_SECONDS = 240


def kernel(flavour):
    return str(CACHE / flavour / "vmlinuz")


def run(*arguments, flavour="cloud", timeout=BOOT_SECONDS):
    """Runs husk to its end; returns its status and what guest and husk printed."""
    command = [HUSK, "run", kernel(flavour), "--timeout", str(timeout), *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=timeout + 60)
    return done.returncode, done.stdout.decode(errors="replace")


class Boot(unittest.TestCase):
    def check_boot(self, flavour):
        status, text = run("--exec", "uname -r; echo product $((6 * 7)); cat /proc/cpuinfo; dmesg; "
                           "echo warnings; dmesg -r | grep '^<[0-4]>'; echo end of warnings", flavour=flavour)
        self.assertEqual(status, 0, text[-3000:])
        self.assertIn((CACHE / flavour / "version").read_text().strip(), text)
        self.assertIn("product 42", text)
        self.assertIn("husk max", text)
        for bad in ("BUG:", "Oops", "Call Trace", "Kernel panic", "ACPI Error", "ACPI BIOS Error", "unchecked MSR access",
                    "spurious 8259A", "APIC error", "rtc_cmos: probe", "timer doesn't work"):
            self.assertNotIn(bad, text)
        # Fewer than under QEMU's q35, where the same kernel warns of the TSC's and the APIC timer's calibration.
        self.assertRegex(text, r"warnings\r?\n(\x1b\[[0-9;]*m)?end of warnings", "the kernel warns of something")

    def test_cloud_kernel_reaches_its_shell_and_powers_off(self):
        self.check_boot("cloud")

    def test_interpreter_boots_the_same_kernel(self):
        status, text = run("--accel", "interp", "--exec", "uname -r; echo product $((6 * 7))")
        self.assertEqual(status, 0, text[-3000:])
        self.assertIn("product 42", text)

    def test_several_cpus_boot_and_share_work(self):
        """Each CPU sums on its own; sums that are wrong or a CPU that hangs would show."""
        for cpus in (2, 4, 8):
            work = "for i in $(seq 8); do (seq 1 3000 | awk '{s+=$1} END {print \"sum\", s}') & done; wait; echo cpus $(nproc)"
            status, text = run("--cpus", str(cpus), "--exec", work)
            self.assertEqual(status, 0, text[-3000:])
            self.assertIn(f"cpus {cpus}", text)
            self.assertEqual(text.count("sum 4501500"), 8, text[-3000:])

    def test_generic_kernel_reaches_its_shell_and_powers_off(self):
        self.check_boot("generic")

    def test_reset_ends_husk_with_no_reboot(self):
        status, text = run("--no-reboot", "--exec", "reboot -f")
        self.assertEqual(status, 4, text[-2000:])

    def test_panic_is_told_apart(self):
        status, text = run("--exec", "echo c > /proc/sysrq-trigger")
        self.assertEqual(status, 6, text[-2000:])
        self.assertIn("end Kernel panic", text)

    def test_time_out_is_told_apart(self):
        status, _ = run(timeout=3)
        self.assertEqual(status, 124)

    def test_time_agrees_and_idle_costs_little(self):
        """A guest that sleeps 30 s: its clock agrees with the host's within 1 %, and husk is nearly idle."""
        process = subprocess.Popen(
            [HUSK, "run", kernel("cloud"), "--timeout", str(BOOT_SECONDS), "--exec",
             "sleep 3; cat /proc/uptime | sed 's/^/A /'; sleep 30; cat /proc/uptime | sed 's/^/B /'"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        marks = {}
        for raw in process.stdout:
            line = raw.decode(errors="replace")
            found = re.match(r"([AB]) ([0-9.]+)", line)
            if found:
                ticks = sum(int(n) for n in pathlib.Path(f"/proc/{process.pid}/stat").read_text().split(")")[1].split()[11:13])
                marks[found[1]] = (time.monotonic(), float(found[2]), ticks / os.sysconf("SC_CLK_TCK"))
        self.assertEqual(process.wait(), 0)
        host = marks["B"][0] - marks["A"][0]
        guest = marks["B"][1] - marks["A"][1]
        busy = (marks["B"][2] - marks["A"][2]) / host
        self.assertLess(abs(guest - host) / host, 0.01, f"guest {guest} s, host {host} s")
        self.assertLess(busy, 0.03, f"husk used {busy:.1%} of a core while the guest slept")


class CrashReport(unittest.TestCase):
    def test_jump_into_nothing_gives_a_readable_report(self):
        """A Multiboot kernel of four instructions: load an empty IDT, jump to an address without memory."""
        code = bytes([0x0F, 0x01, 0x1D, 0x40, 0x00, 0x10, 0x00,  # lidt [100040h]
                      0xB8, 0x00, 0x00, 0x00, 0xD0,  # mov eax, D0000000h
                      0xFF, 0xE0])  # jmp eax
        header = [0x1BADB002, 0x10000, (-(0x1BADB002 + 0x10000)) & 0xFFFFFFFF, 0x100000, 0x100000, 0x100050, 0x100050, 0x100020]
        image = b"".join(n.to_bytes(4, "little") for n in header) + code
        image = image.ljust(0x50, b"\0")
        with tempfile.NamedTemporaryFile(suffix=".bin") as file:
            file.write(image)
            file.flush()
            done = subprocess.run([HUSK, "run", file.name, "--timeout", "20"], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        text = done.stderr.decode()
        self.assertEqual(done.returncode, 8, text)
        for wanted in ("triple fault", "RIP=00000000d0000000", "#UD", "likely cause", "paging is off"):
            self.assertIn(wanted, text)


class Gdb(unittest.TestCase):
    def test_stock_gdb_follows_a_kernel_from_its_first_instruction(self):
        with tempfile.TemporaryDirectory() as folder:
            socket = folder + "/gdb"
            process = subprocess.Popen([HUSK, "run", kernel("cloud"), "--paused", "--gdb", "unix:" + socket, "--timeout", "120"],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            try:
                while not os.path.exists(socket):
                    self.assertIsNone(process.poll(), "husk ended before its gdb server was up")
                    time.sleep(0.05)
                commands = ["set pagination off", "set confirm off", f"target remote {socket}",
                            'printf "entry %#lx cr0 %#lx efer %#lx\\n", $rip, $cr0, $efer', "x/i $pc", "set $first = $rip",
                            "stepi", 'printf "moved %d\\n", $rip != $first',
                            "python a = int(gdb.execute('monitor symbol start_kernel', to_string=True), 16)",
                            "python gdb.execute('hbreak *%#x' % a)", "continue",
                            "python print('at start_kernel', int(gdb.parse_and_eval('(unsigned long)$rip')) % 2**64 == a)",
                            "delete",
                            "python w = (int(gdb.parse_and_eval('(unsigned long)$rsp')) - 8) % 2**64",
                            "python gdb.execute('watch *(long *)%#x' % w)", "continue", "delete",
                            "python b = int(gdb.execute('monitor symbol rest_init', to_string=True), 16)",
                            "python gdb.execute('break *%#x' % b)", "continue",
                            "python print('at rest_init', int(gdb.parse_and_eval('(unsigned long)$rip')) % 2**64 == b)",
                            "x/2xb $rip", "monitor registers", "info registers cr3", "kill"]
                done = subprocess.run(["gdb", "-nx", "-batch"] + [x for c in commands for x in ("-ex", c)],
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100)
                text = done.stdout.decode()
                self.assertRegex(text, r"entry 0x1[0-9a-f]{6} cr0 0x8\S+ efer 0x[5d]0[01]", text)
                for wanted in ("moved 1", "at start_kernel True", "Hardware watchpoint 2", "Old value", "at rest_init True", "CPU 0"):
                    self.assertIn(wanted, text)
                process.wait(timeout=20)
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    process.wait()


class BadInput(unittest.TestCase):
    """One clear message, exit status 2, no crash."""

    def refuse(self, *arguments, wanted):
        done = subprocess.run([HUSK, "run", *arguments, "--timeout", "10"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30)
        text = done.stderr.decode(errors="replace")
        self.assertEqual(done.returncode, 2, text)
        self.assertEqual(len(text.strip().splitlines()), 1, text)
        self.assertRegex(text, wanted)

    def file(self, content):
        file = tempfile.NamedTemporaryFile(suffix=".img")
        self.addCleanup(file.close)
        file.write(content)
        file.flush()
        return file.name

    def test_missing_kernel(self):
        self.refuse("/nonexistent/vmlinuz", wanted="No such file")

    def test_empty_kernel(self):
        self.refuse(self.file(b""), wanted="empty")

    def test_truncated_kernel(self):
        self.refuse(self.file(pathlib.Path(kernel("cloud")).read_bytes()[:300000]), wanted="(?i)trunc|short|ends|beyond|missing")

    def test_random_kernel(self):
        self.refuse(self.file(bytes((i * 7919 >> 3) & 255 for i in range(100000))), wanted="kernel")

    def test_wrong_architecture(self):
        image = bytearray(b"\x7fELF\x02\x01\x01" + bytes(9) + (2).to_bytes(2, "little") + (183).to_bytes(2, "little") + bytes(4096))
        self.refuse(self.file(bytes(image)), wanted="(?i)aarch64|arm64|machine")

    def test_missing_initrd(self):
        self.refuse(kernel("cloud"), "--initrd", "/nonexistent/initrd", wanted="initrd")

    def test_too_little_memory(self):
        self.refuse(kernel("cloud"), "-m", "8M", wanted="(?i)memory|RAM")

    def test_malformed_options(self):
        self.refuse("--cpus", "0", wanted="cpus")
        self.refuse("-m", "lots", wanted="lots")
        self.refuse("--no-such-option", wanted="no-such-option")
        self.refuse("--cpu", "imaginary", kernel("cloud"), wanted="imaginary")


if __name__ == "__main__":
    HUSK = os.path.abspath(sys.argv[1])
    CACHE = pathlib.Path(sys.argv[2])
    unittest.main(argv=[sys.argv[0]] + sys.argv[3:], verbosity=2)
