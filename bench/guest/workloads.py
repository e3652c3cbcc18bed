# husk: the guest benchmark kit: the workloads, by group
import os
from dataclasses import dataclass, field


@dataclass
class Workload:
    name: str
    group: str
    command: str
    prepare: str = ""
    check: str = ""
    layers: list = field(default_factory=lambda: ["base"])
    cpus: int = 1
    timeout: int = 240  # seconds, of the machine's own clock


GROUPS = ["integer", "fp", "memory", "kernel", "code", "programs", "smp", "boot"]
_SOURCES = {"integer": "integer.c", "fp": "float.c", "memory": "memory.c", "kernel": "kernel.c", "code": "code.c",
            "smp": "smp.c"}
_PROGRAMS = ["base", "programs"]
_DATA = "/kit/data"
_OUT = "/tmp/result"


def _own(here, percent):
    import re
    for group, source in _SOURCES.items():
        text = open(os.path.join(here, "src", source)).read()
        table = text[text.index("Workloads[]"):]
        for name in re.findall(r'\{"(\w+)",', table):
            yield Workload(name, group, f"exec /kit/kit {name} {percent}", cpus=2 if group == "smp" else 1)


def _crypto(megabytes):
    copies = " ".join([f"{_DATA}/random"] * max(megabytes // 8, 1))
    prepare = f"cat {copies} > /tmp/plain"
    key = "-K 000102030405060708090a0b0c0d0e0f -iv 0f0e0d0c0b0a09080706050403020100"
    long_key = "-K 000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f -iv 0f0e0d0c0b0a09080706050403020100"
    check = f"tail -c 65536 {_OUT} | md5sum; rm -f {_OUT} /tmp/plain"

    def enc(name, cipher, keys):
        return Workload(name, "fp", f"exec openssl enc -{cipher} {keys} -in /tmp/plain -out {_OUT}", prepare, check, _PROGRAMS)

    yield enc("openssl_aes_cbc", "aes-128-cbc", key)
    yield enc("openssl_aes_ctr", "aes-256-ctr", long_key)
    yield enc("openssl_chacha20", "chacha20", long_key)
    for digest in ("sha1", "sha256", "sha512", "md5"):
        yield Workload(f"openssl_{digest}", "fp", f"exec openssl dgst -{digest} /tmp/plain", prepare, "rm -f /tmp/plain",
                       _PROGRAMS)


def _programs(percent):
    scripts = "/kit/scripts"
    kilobytes = 4096 * percent // 100

    def text(name, command, check=f"md5sum < {_OUT}", more=""):
        return Workload(name, "programs", command,
                        f"head -c {kilobytes}k {_DATA}/text > /tmp/plain{more}", check + f"; rm -f {_OUT} /tmp/plain*",
                        _PROGRAMS)

    functions = max(50 * percent // 100, 12)
    # The table and the function of the first N parts: the file is cut before part N + 1.
    cut = f"sed '/^static long table{functions}\\[/,$d' {_DATA}/large.c > /tmp/large.c"
    if functions >= 50:
        cut = f"cat {_DATA}/large.c > /tmp/large.c"
    yield Workload("gcc", "programs", f"exec gcc-12 -O2 -w -c /tmp/large.c -o {_OUT}.o", cut, f"md5sum < {_OUT}.o",
                   _PROGRAMS)
    yield Workload("tcc", "programs", f"for i in 1 2 3 4; do tcc -w -c /tmp/large.c -o {_OUT}.o || exit 1; done", cut,
                   f"md5sum < {_OUT}.o", _PROGRAMS)
    yield Workload("python3", "programs", f"exec python3.11 -S -E {scripts}/bench.py {percent}", layers=_PROGRAMS)
    yield Workload("perl", "programs", f"exec perl {scripts}/bench.pl {percent}", layers=_PROGRAMS)
    yield Workload("lua", "programs", f"exec lua5.4 {scripts}/bench.lua {percent}", layers=_PROGRAMS)
    yield Workload("luajit", "programs", f"exec luajit {scripts}/bench.lua {percent * 5}", layers=_PROGRAMS)
    yield Workload("sqlite", "programs", f"sqlite3 /tmp/base.db < /tmp/statements.sql",
                   f"sed s/ROWS/{600 * percent}/ {scripts}/bench.sql > /tmp/statements.sql", "rm -f /tmp/base.db", _PROGRAMS)
    yield text("gzip", f"exec /bin/gzip -6 -n -c /tmp/plain > {_OUT}")
    yield text("gunzip", f"for i in 1 2 3 4 5; do /bin/gzip -d -c /tmp/plain.gz > {_OUT} || exit 1; done",
               more=" && /bin/gzip -1 -n -k /tmp/plain")
    yield text("xz", f"head -c {kilobytes // 4}k /tmp/plain | /usr/bin/xz -6 -T1 -c > {_OUT}")
    yield text("unxz", f"exec /usr/bin/xz -d -c /tmp/plain.xz > {_OUT}", more=" && /usr/bin/xz -0 -k /tmp/plain")
    yield text("zstd", f"exec /usr/bin/zstd -q --single-thread -9 -c /tmp/plain > {_OUT}")
    yield text("unzstd", f"for i in 1 2 3 4 5; do /usr/bin/zstd -q -d -c /tmp/plain.zst > {_OUT} || exit 1; done",
               more=" && /usr/bin/zstd -q -3 /tmp/plain")
    yield text("7z", f"head -c {kilobytes // 4}k /tmp/plain | exec 7zr a -mmt1 -mx3 -mtm- -mtc- -mta- -si {_OUT}.7z > /dev/null",
               check=f"7zr e -so {_OUT}.7z | md5sum; rm -f {_OUT}.7z")
    yield Workload("node", "code", f"exec node {scripts}/bench.js {percent}", layers=["base", "programs", "node"])


def _smp_programs(percent):
    kilobytes = 2048 * percent // 100
    yield Workload("7z_mmt2", "smp", f"head -c {kilobytes}k {_DATA}/text | 7zr a -mmt2 -mx3 -si {_OUT}.7z > /dev/null",
                   "", f"7zr e -so {_OUT}.7z | md5sum; rm -f {_OUT}.7z", _PROGRAMS, 2)
    layers = ["base", "programs", "sysbench"]
    for name, options in (("threads", "--thread-yields=100 --thread-locks=4"),
                          ("mutex", f"--mutex-num=64 --mutex-locks={200 * percent} --mutex-loops=500")):
        events = f"--events={20 * percent}" if name == "threads" else ""
        # sysbench prints times, which differ: only its status counts.
        yield Workload(f"sysbench_{name}", "smp",
                       f"sysbench {name} --threads=2 --time=0 {events} {options} run > /tmp/sysbench.out", "", "", layers, 2)


def all_workloads(here, percent):
    yield from _own(here, percent)
    yield from _crypto(64 * percent // 100)
    yield from _programs(percent)
    yield from _smp_programs(percent)
