# husk: the guest benchmark kit: runs a plan natively, in husk and in QEMU, and times it from outside
import os
import re
import select
import signal
import subprocess
import time

from packages import write_cpio

_MARK = re.compile(rb"@(ready|begin|ran|say|end|done)(?: ([^\r\n]*))?\r?$")


def _cpu_ns(pid):
    """What all threads of `pid` have used of the host's CPUs (Documentation/scheduler/sched-stats.rst)."""
    total = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                    total += int(file.read().split()[0])
            except OSError:
                pass  # the thread ended
    except OSError:
        pass
    return total


def _ended(pid):
    """Whether the child has ended; leaves it to be waited for, so that its use of the CPU can still be asked for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class Machine:
    """One way to run a plan. `run` answers (results, ending): results by workload, ending None or what went wrong."""

    def __init__(self, name, setup):
        self.name = name
        self.setup = setup

    def command(self, initrd, cpus):
        raise NotImplementedError

    def archive(self, plan, layers):
        path = os.path.join(self.setup.cache, f"initrd-{self.name}")
        plan_path = os.path.join(self.setup.cache, f"plan-{self.name}.cpio")
        text = "".join(f"{w.name}\t{w.timeout}\t{w.prepare}\t{w.command}\t{w.check}\n" for w in plan).encode()
        write_cpio(None, plan_path, [("kit", 0o40755, b"", (0, 0)), ("kit/plan", 0o100644, text, (0, 0))])
        with open(path, "wb") as out:
            for part in [self.setup.archives[layer] for layer in layers] + [plan_path]:
                with open(part, "rb") as file:
                    while block := file.read(1 << 22):
                        out.write(block)
        return path

    def run(self, plan, layers, cpus):
        initrd = self.archive(plan, layers)
        command = self.command(initrd, cpus)
        results = {}
        says = {}
        console = []
        started = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   start_new_session=True)
        os.set_blocking(process.stdout.fileno(), False)
        pending = b""
        current = None
        cpu_begin = cpu_ran = wall_begin = wall_ran = 0
        deadline = time.monotonic() + self.setup.boot_timeout
        ending = None
        info = {"command": command}
        done = False

        def answer():
            try:
                process.stdin.write(b"\n")
                process.stdin.flush()
            except OSError:
                pass  # it ended: found below

        try:
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    ending = f"no answer for too long{' in ' + current.name if current else ''}"
                    break
                ready, _, _ = select.select([process.stdout], [], [], min(left, 1.0))
                if not ready:
                    if _ended(process.pid):
                        break
                    continue
                block = process.stdout.read()
                if block == b"" and _ended(process.pid):
                    break
                if not block:
                    time.sleep(0.01)
                    if _ended(process.pid):
                        break
                    continue
                *lines, pending = (pending + block).split(b"\n")
                for line in lines:
                    mark = _MARK.search(line)
                    if mark is None:
                        if line.strip():
                            console.append(line.decode(errors="replace").rstrip())
                        continue
                    kind = mark[1].decode()
                    words = (mark[2] or b"").decode(errors="replace").split()
                    if kind == "ready":
                        info["ready"] = time.monotonic() - started
                        info["ready_cpu"] = _cpu_ns(process.pid) / 1e9
                        answer()
                        deadline = time.monotonic() + self.setup.prepare_timeout
                    elif kind == "begin":
                        current = next((w for w in plan if w.name == words[0]), None)
                        if current is None:
                            ending = f"it began something that is not in the plan: {line!r}"
                            break
                        deadline = time.monotonic() + current.timeout * 1.2 + 20
                        wall_begin, cpu_begin = time.monotonic(), _cpu_ns(process.pid)
                        answer()
                    elif kind == "ran":
                        wall_ran, cpu_ran = time.monotonic(), _cpu_ns(process.pid)
                        deadline = time.monotonic() + self.setup.prepare_timeout
                        answer()
                    elif kind == "say":
                        says[words[0]] = " ".join(words[1:])
                    elif kind == "end":
                        name, took, used, status, total = words
                        results[name] = {"seconds": int(took) / 1e9, "host_seconds": wall_ran - wall_begin,
                                         "cpu_seconds": self.cpu_seconds(int(used), cpu_ran - cpu_begin),
                                         "status": int(status), "sum": total, "say": says.get(name, "")}
                        current = None
                        deadline = time.monotonic() + self.setup.prepare_timeout
                    elif kind == "done":
                        done = True
                        deadline = time.monotonic() + 60
                if ending is not None:
                    break
        finally:
            if not _ended(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
            _, status, usage = os.wait4(process.pid, 0)
            info["total"] = time.monotonic() - started
            info["cpu"] = usage.ru_utime + usage.ru_stime
            info["resident_mib"] = usage.ru_maxrss / 1024
            process.returncode = os.waitstatus_to_exitcode(status)
            info["exit"] = process.returncode
            process.stdin.close()
            process.stdout.close()
        if ending is None and not done:
            ending = f"it ended with status {process.returncode}{' in ' + current.name if current else ''}"
        elif ending is None and process.returncode != 0:
            ending = f"status {process.returncode} at power-off"
        info["ending"] = ending
        info["current"] = current.name if current else None
        info["console"] = console[-40:]
        return results, info

    def cpu_seconds(self, inside, outside):
        return outside / 1e9


class Native(Machine):
    """The same tree by chroot, in a mount namespace of its own."""

    def archive(self, plan, layers):
        with open(os.path.join(self.setup.root, "kit", "plan"), "w") as out:
            for w in plan:
                out.write(f"{w.name}\t{w.timeout}\t{w.prepare}\t{w.command}\t{w.check}\n")
        return ""

    def command(self, initrd, cpus):
        root = self.setup.root
        script = (f"mount -t proc proc {root}/proc && mount --bind /dev {root}/dev && "
                  f"mount -t tmpfs tmpfs {root}/tmp && exec chroot {root} /kit/runner")
        # With a process id space of its own, what a workload leaves behind dies with the runner; --fork keeps the
        # runner from being its init, which it would take for being a guest's.
        options = ["--mount", "--propagation", "private"] + ([] if os.getuid() == 0 else ["--map-root-user"])
        pin = ["taskset", "-c", "0"] if cpus == 1 and self.setup.pin else []
        return pin + ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "unshare"] + options + ["sh", "-c", script]

    def cpu_seconds(self, inside, outside):
        return inside / 1e9  # outside saw the runner, not its ended children


class Husk(Machine):
    def command(self, initrd, cpus):
        return [self.setup.husk, "run", self.setup.kernel, "--initrd", initrd, "--append", self.setup.append,
                "-m", self.setup.memory, "--cpus", str(cpus), "--accel", self.setup.accel, "--console", "stdio",
                "--no-reboot"] + self.setup.husk_options


class Qemu(Machine):
    def command(self, initrd, cpus):
        return [self.setup.qemu, "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-m", self.setup.memory,
                "-smp", str(cpus), "-display", "none", "-monitor", "none", "-serial", "stdio", "-net", "none", "-no-reboot",
                "-kernel", self.setup.kernel, "-initrd", initrd, "-append", self.setup.append]
