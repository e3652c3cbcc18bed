# husk: the guest benchmark kit: takes Debian packages, compiles the kit's sources and packs both as initramfs archives
import os
import random
import shutil
import stat
import subprocess
import sys

WANTED = [
    "busybox-static", "openssl", "xz-utils", "zstd", "gzip", "p7zip-full", "python3-minimal", "libpython3.11-stdlib",
    "perl-base", "lua5.4", "luajit", "sqlite3", "tcc", "gcc-12", "nodejs", "sysbench", "libc6",
]
# Archives that a boot loads only when a workload asks for them; what is in no list is in "programs".
LAYER_OF = {
    "base": {"busybox-static", "libc6"},
    "node": {"nodejs", "libnode108", "libicu72", "libuv1", "libc-ares2", "libnghttp2-14", "libbrotli1",
             "node-acorn", "node-busboy", "node-cjs-module-lexer", "node-undici", "node-xtend"},
    "sysbench": {"sysbench", "libmariadb3", "libpq5", "libldap-2.5-0", "libgssapi-krb5-2", "libkrb5-3",
                 "libk5crypto3", "libkrb5support0", "libcom-err2", "libkeyutils1", "libgnutls30", "libp11-kit0",
                 "libidn2-0", "libunistring2", "libtasn1-6", "libnettle8", "libhogweed6", "libsasl2-2", "libaio1"},
    "none": {"dpkg", "tar", "libasan8", "liblsan0", "libtsan2", "libubsan1", "libgprofng0", "mysql-common",
             "mariadb-common", "media-types", "libsasl2-modules-db", "binutils-common", "libitm1", "libgomp1",
             "libcc1-0", "readline-common"},
}
LAYERS = ["base", "programs", "node", "sysbench"]
# Trees that no workload reads, and tools that would double the archive.
LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian",
            "usr/share/bash-completion", "usr/share/gcc", "usr/lib/x86_64-linux-gnu/gconv", "usr/bin/x86_64-linux-gnu-lto-dump-12",
            "usr/lib/gcc/x86_64-linux-gnu/12/lto1", "usr/bin/x86_64-linux-gnu-dwp", "usr/include/node",
            "usr/share/systemtap", "usr/bin/x86_64-linux-gnu-gold", "usr/bin/x86_64-linux-gnu-ld.gold")
APPLETS = ("sh cat cp dd echo false head ls md5sum mkdir mount mv printf rm seq sleep sort tail tr true uname wc "
           "dmesg ps poweroff").split()


def say(text):
    print(f"bench/guest: {text}", file=sys.stderr, flush=True)


def die(text):
    say(text)
    sys.exit(2)


def fetch(cache):
    """The .deb files of WANTED and all they depend on, as a dictionary name -> path."""
    archives = os.path.join(cache, "archives")
    marker = os.path.join(archives, "complete")
    want = " ".join(WANTED)
    if not (os.path.exists(marker) and open(marker).read() == want):
        if shutil.which("apt-get") is None:
            die("apt-get is missing: the kit takes its programs as Debian packages")
        os.makedirs(os.path.join(archives, "partial"), exist_ok=True)
        # An empty status file makes apt count nothing as installed, so that every dependency comes too.
        status = os.path.join(cache, "status")
        open(status, "w").close()
        command = ["apt-get", "-q", "-o", f"Dir::State::status={status}", "-o", f"Dir::Cache::archives={archives}",
                   "-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=1", "--no-install-recommends", "-y",
                   "--download-only", "install"] + WANTED
        for attempt in range(3):
            say("taking Debian packages")
            if subprocess.run(command, stdout=sys.stderr).returncode == 0:
                break
        else:
            die("apt-get cannot download the packages; run 'apt-get update' as root and try again")
        open(marker, "w").write(want)
    return {name.split("_")[0]: os.path.join(archives, name) for name in sorted(os.listdir(archives))
            if name.endswith(".deb")}


def layer_of(package):
    for layer, names in LAYER_OF.items():
        if package in names:
            return layer
    return "programs"


def compile_sources(source, tree):
    kit = os.path.join(tree, "kit")
    os.makedirs(kit, exist_ok=True)
    flags = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror"]
    parts = [os.path.join(source, name + ".c") for name in "main integer float memory kernel code smp".split()]

    def build(name, *arguments):
        if subprocess.run(flags + ["-o", os.path.join(kit, name)] + list(arguments)).returncode != 0:
            die(f"gcc cannot compile {name}; the kit needs gcc and libc6-dev")

    build("kit", "-static", "-pthread", *parts, "-lm")
    build("runner", "-static", os.path.join(source, "runner.c"))
    build("exit42-static", "-static", os.path.join(source, "exit42.c"))
    build("exit42-dynamic", os.path.join(source, "exit42.c"))


def make_source(path):
    """A large C file of many kinds of functions, without includes, as a preprocessed one is."""
    draw = random.Random(1)
    types = ["int", "unsigned", "long", "unsigned long", "double", "short"]
    with open(path, "w") as out:
        out.write("typedef unsigned long size_t;\nextern void* memcpy(void*, const void*, size_t);\n")
        for i in range(40):
            fields = "".join(f"  {draw.choice(types)} f{j};\n" for j in range(6))
            out.write(f"struct S{i} {{\n{fields}  struct S{max(i - 1, 0)}* next;\n}};\n")
        for i in range(50):
            record = draw.randrange(40)
            out.write(f"static long table{i}[16] = {{{', '.join(str(draw.randrange(1000)) for _ in range(16))}}};\n")
            out.write(f"long function{i}(struct S{record}* s, long a, long b) {{\n  long r = a;\n")
            for j in range(8):
                k, c = draw.randrange(6), draw.randrange(1, 99)
                kind = draw.randrange(5)
                if kind == 0:
                    out.write(f"  for (int i = 0; i < (b & 15); ++i) r += table{i}[i] * {c} + (long)s->f{k};\n")
                elif kind == 1:
                    out.write(f"  if (r > {c} && s->f{k} < b) r -= (long)s->f{k} * {c}; else r ^= b << {c % 7};\n")
                elif kind == 2:
                    cases = "".join(f" case {n}: r += {draw.randrange(50)} * a; break;" for n in range(6))
                    out.write(f"  switch (r & 7) {{{cases} default: r = -r; }}\n")
                elif kind == 3 and i > 0:
                    out.write(f"  if (b > {c}) r += function{draw.randrange(i)}((void*)s, r, b - 1);\n")
                else:
                    out.write(f"  while (r > {c * 1000}) {{ r /= {c + 1}; s->f{k} += 1; }}\n")
            out.write("  return r;\n}\n")


def make_data(tree):
    data = os.path.join(tree, "kit", "data")
    os.makedirs(data, exist_ok=True)
    draw = random.Random(2)
    words = ["".join(draw.choice("etaoinshrdlu") for _ in range(draw.randrange(2, 9))) for _ in range(3000)]
    weights = [1 / (rank + 5) for rank in range(len(words))]
    with open(os.path.join(data, "text"), "w") as out:
        size = 0
        while size < 4 << 20:
            line = " ".join(draw.choices(words, weights, k=12)) + f" {draw.randrange(10000)}\n"
            out.write(line)
            size += len(line)
    with open(os.path.join(data, "random"), "wb") as out:
        out.write(draw.randbytes(8 << 20))
    make_source(os.path.join(data, "large.c"))


def newest(path):
    return max((os.path.getmtime(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names
                if "__pycache__" not in folder), default=0)


def write_cpio(tree, path, entries=None):
    """A newc archive (Documentation/driver-api/early-userspace/buffer-format.rst) of `tree`, owned by root."""
    number = 0
    with open(path + ".new", "wb") as out:
        def entry(name, mode, body, device=(0, 0)):
            nonlocal number
            number += 1
            encoded = name.encode() + b"\0"
            fields = [number, mode, 0, 0, 1, 0, len(body), 0, 0, device[0], device[1], len(encoded), 0]
            out.write(b"070701" + b"".join(b"%08x" % field for field in fields) + encoded)
            out.write(b"\0" * (-(110 + len(encoded)) % 4))
            out.write(body)
            out.write(b"\0" * (-len(body) % 4))

        if tree is not None:
            for folder, folders, names in os.walk(tree):
                folders.sort()
                for name in sorted(folders + names):
                    full = os.path.join(folder, name)
                    status = os.lstat(full)
                    inside = os.path.relpath(full, tree)
                    if stat.S_ISLNK(status.st_mode):
                        entry(inside, 0o120777, os.readlink(full).encode())
                    elif stat.S_ISDIR(status.st_mode):
                        entry(inside, 0o40755, b"")
                    elif stat.S_ISREG(status.st_mode):
                        with open(full, "rb") as body:
                            entry(inside, 0o100755 if status.st_mode & 0o111 else 0o100644, body.read())
        for name, mode, body, device in entries or []:
            entry(name, mode, body, device)
        entry("TRAILER!!!", 0, b"")
        out.write(b"\0" * (-out.tell() % 512))
    os.replace(path + ".new", path)


def build(cache, here):
    """Makes the trees and archives where they are missing or older than the kit. Returns (layer -> archive, root)."""
    debs = fetch(cache)
    trees = os.path.join(cache, "trees")
    root = os.path.join(cache, "root")
    archives = {layer: os.path.join(cache, layer + ".cpio") for layer in LAYERS}
    stamp = os.path.join(cache, "built")
    if os.path.exists(stamp) and os.path.getmtime(stamp) > newest(here):
        return archives, root
    say("unpacking and compiling")
    for layer in LAYERS:
        tree = os.path.join(trees, layer)
        unpacked = os.path.join(cache, "unpacked-" + layer)
        want = " ".join(os.path.basename(path) for name, path in debs.items() if layer_of(name) == layer)
        if not (os.path.exists(unpacked) and open(unpacked).read() == want):
            shutil.rmtree(tree, ignore_errors=True)
            os.makedirs(tree)
            for name, path in debs.items():
                if layer_of(name) == layer:
                    subprocess.run(["dpkg-deb", "-x", path, tree], check=True)
            for left_out in LEFT_OUT:
                path = os.path.join(tree, left_out)
                if os.path.isdir(path):
                    shutil.rmtree(path)
                elif os.path.lexists(path):
                    os.remove(path)
            open(unpacked, "w").write(want)
    base = os.path.join(trees, "base")
    os.makedirs(os.path.join(base, "bin"), exist_ok=True)
    for applet in APPLETS:
        link = os.path.join(base, "bin", applet)
        if not os.path.lexists(link):
            os.symlink("busybox", link)
    for folder in ("proc", "sys", "dev", "tmp", "etc"):
        os.makedirs(os.path.join(base, folder), exist_ok=True)
    compile_sources(os.path.join(here, "src"), base)
    if not os.path.lexists(os.path.join(base, "init")):
        os.symlink("kit/runner", os.path.join(base, "init"))
    programs = os.path.join(trees, "programs", "kit")
    if not os.path.exists(os.path.join(programs, "data", "large.c")) or \
            newest(os.path.join(programs, "data")) < os.path.getmtime(__file__):
        make_data(os.path.join(trees, "programs"))
    shutil.copytree(os.path.join(here, "scripts"), os.path.join(programs, "scripts"), dirs_exist_ok=True)
    console = [("dev/console", 0o20600, b"", (5, 1)), ("dev/null", 0o20666, b"", (1, 3))]
    shutil.rmtree(root, ignore_errors=True)
    for layer in LAYERS:
        tree = os.path.join(trees, layer)
        write_cpio(tree, archives[layer], console if layer == "base" else None)
        subprocess.run(["cp", "-a", "--remove-destination", tree + "/.", root + "/"] if os.path.isdir(root)
                       else ["cp", "-a", tree, root], check=True)
    open(stamp, "w").close()
    return archives, root
