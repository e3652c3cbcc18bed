#!/usr/bin/env python3
# husk: what POSIX says of files, as a list of small experiments whose results are printed: here and there they must agree
"""usage: posix_operations.py DIRECTORY. The directory is empty and writable. Prints one line a result; nothing in it
differs between two runs by the same user on one machine (no inode numbers, no times)."""
import errno
import fcntl
import mmap
import os
import stat
import sys

os.chdir(sys.argv[1])
os.umask(0o022)


def result(name, function, *arguments, **named):
    try:
        value = function(*arguments, **named)
    except OSError as error:
        value = errno.errorcode[error.errno]
    except ValueError as error:
        value = "ValueError"
    print(f"{name}: {value!r}", flush=True)
    return value


def write(path, data, flags=os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode=0o644):
    fd = os.open(path, flags, mode)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def look(path):
    info = os.lstat(path)
    return stat.filemode(info.st_mode), info.st_nlink, info.st_size if not stat.S_ISDIR(info.st_mode) else "-", info.st_uid, info.st_gid


def attempt(function, *arguments):
    try:
        return function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]


def opens():
    result("open missing", os.open, "none", os.O_RDONLY)
    result("open directory for writing", os.open, ".", os.O_WRONLY)
    result("create in missing directory", write, "none/file", b"x")
    result("create", write, "file", b"content")
    result("exclusive create of existing", os.open, "file", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    result("file as directory", os.listdir, "file")
    result("path through file", os.stat, "file/x")
    result("trailing slash", os.stat, "file/")
    os.symlink("loop2", "loop1")
    os.symlink("loop1", "loop2")
    result("loop", os.stat, "loop1")
    os.symlink("file", "soft")
    result("nofollow", os.open, "soft", os.O_RDONLY | os.O_NOFOLLOW)
    result("exclusive create through link", os.open, "soft", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.symlink("made-by-link", "dangling")
    result("create through link", write, "dangling", b"x")
    result("what it made", look, "made-by-link")
    result("name of 255", write, "n" * 255, b"")
    result("name of 256", write, "n" * 256, b"")
    os.unlink("n" * 255)
    fd = os.open("direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    page = mmap.mmap(-1, 8192)
    page[:] = b"d" * 8192
    result("direct write", os.writev, fd, [page])
    page[:] = bytes(8192)
    result("direct read", os.preadv, fd, [page], 0)
    result("direct content", lambda: bytes(page[:4]))
    os.close(fd)


def appends():
    write("log", b"one ")
    first = os.open("log", os.O_WRONLY | os.O_APPEND)
    second = os.open("log", os.O_WRONLY | os.O_APPEND)
    for fd, text in ((first, b"two "), (second, b"three "), (first, b"four")):
        os.write(fd, text)
    result("appended", read, "log")
    os.close(first), os.close(second)


def unlinked():
    write("gone", b"still here")
    fd = os.open("gone", os.O_RDWR)
    os.unlink("gone")
    result("nlink", lambda: os.fstat(fd).st_nlink)
    result("read", os.pread, fd, 100, 0)
    result("write", os.pwrite, fd, b"ANOTHER", 6)
    result("truncate", os.ftruncate, fd, 9)
    result("content", os.pread, fd, 100, 0)
    result("chmod", os.fchmod, fd, 0o600)
    result("mode", lambda: oct(os.fstat(fd).st_mode))
    result("utime", os.utime, fd, (1, 2))
    write("gone", b"new")
    result("old", os.pread, fd, 100, 0)
    result("new", read, "gone")
    os.close(fd)
    os.mkdir("dir")
    fd = os.open("dir", os.O_RDONLY)
    os.rmdir("dir")
    result("list a removed directory", os.listdir, fd)
    result("create in a removed directory", lambda: os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def renames():
    for name in ("a", "b"):
        os.mkdir(name)
        write(name + "/file", name.encode())
    result("over full directory", os.rename, "a", "b")
    result("directory over file", os.rename, "a", "b/file")
    result("file over directory", os.rename, "a/file", "b")
    result("into itself", os.rename, "a", "a/inner")
    fd = os.open("b/file", os.O_RDONLY)
    result("over open file", os.rename, "a/file", "b/file")
    result("replaced", os.pread, fd, 10, 0)
    result("replaced nlink", lambda: os.fstat(fd).st_nlink)
    os.close(fd)
    result("now", read, "b/file")
    result("over empty directory", os.rename, "b", "a")
    result("left", lambda: sorted(os.listdir("a")))
    result("missing", os.rename, "none", "x")
    os.link("a/file", "a/other")
    result("link over link", os.rename, "a/file", "a/other")
    result("both", lambda: sorted(os.listdir("a")))
    cwd = os.open(".", os.O_RDONLY)
    os.mkdir("moved")
    os.chdir("moved")
    os.rename("../moved", "../moved2")
    result("cwd follows", lambda: os.path.basename(os.getcwd()))
    write("here", b"")
    os.fchdir(cwd)
    result("there", os.listdir, "moved2")


def links():
    write("one", b"1")
    os.link("one", "two")
    result("two", look, "two")
    result("same", lambda: os.path.samefile("one", "two"))
    write("two", b"12345", os.O_WRONLY | os.O_APPEND)
    result("one", read, "one")
    os.unlink("one")
    result("left", look, "two")
    result("to directory", os.link, ".", "three")
    result("existing", os.link, "two", "two")
    result("to missing", os.link, "none", "three")
    os.symlink("x" * 4000, "long")
    result("long link", lambda: len(os.readlink("long")))
    result("readlink of file", os.readlink, "two")
    result("link's own", look, "long")
    os.mkfifo("fifo", 0o640)
    result("fifo", look, "fifo")


def directories():
    result("mkdir", os.mkdir, "d", 0o1770)
    result("mode", look, "d")
    result("again", os.mkdir, "d")
    result("deep", os.makedirs, "d/1/2/3/4/5")
    result("full", os.rmdir, "d/1")
    result("nlink", lambda: os.stat("d/1").st_nlink)
    result("dotdot", lambda: os.path.samefile("d/1/..", "d"))
    result("rmdir dot", os.rmdir, "d/.")
    os.mkdir("many")
    for i in range(1000):
        write(f"many/{i}", b"")
    result("count", lambda: len(os.listdir("many")))
    with os.scandir("many") as entries:
        seen = set()
        for entry in entries:
            seen.add(entry.name)
            os.unlink("many/" + entry.name)  # while it is being read
    result("seen", len, seen)
    result("left", os.listdir, "many")
    result("unlink directory", os.unlink, "many")
    result("rmdir file", lambda: (write("f", b""), attempt(os.rmdir, "f"))[1])


def sizes():
    write("s", b"0123456789")
    result("truncate", os.truncate, "s", 4)
    result("content", read, "s")
    result("extend", os.truncate, "s", 10000)
    result("zeroes", lambda: read("s") == b"0123" + bytes(9996))
    result("negative", os.truncate, "s", -1)
    result("directory", os.truncate, ".", 0)
    fd = os.open("s", os.O_RDWR)
    result("far", os.pwrite, fd, b"end", 1 << 32)
    result("size", lambda: os.fstat(fd).st_size)
    result("sparse", lambda: os.fstat(fd).st_blocks < 1000)
    result("hole", lambda: os.lseek(fd, 1 << 20, os.SEEK_HOLE) == 1 << 20)
    result("data", lambda: os.lseek(fd, 1 << 20, os.SEEK_DATA) <= 1 << 32)
    result("end", os.lseek, fd, 0, os.SEEK_END)
    result("beyond", os.pread, fd, 10, 1 << 40)
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    result("allocate", os.posix_fallocate, fd, 0, 100000)
    result("allocated", lambda: os.fstat(fd).st_size)
    result("copy", lambda: (write("src", b"abc" * 10000), os.copy_file_range(os.open("src", os.O_RDONLY), fd, 30000))[1])
    result("copied", lambda: read("s")[:30000] == b"abc" * 10000)
    result("sync", os.fsync, fd)
    result("datasync", os.fdatasync, fd)
    os.close(fd)


def modes():
    write("m", b"")
    for mode in (0, 0o444, 0o7777, 0o600):
        os.chmod("m", mode)
        result(f"chmod {mode:o}", look, "m")
    os.utime("m", ns=(1_000_000_000_123_456_789, 2_000_000_000_987_654_321))
    result("times", lambda: (os.stat("m").st_atime_ns, os.stat("m").st_mtime_ns))
    os.symlink("m", "to-m")
    os.utime("to-m", ns=(5, 7), follow_symlinks=False)
    result("link's time", lambda: os.lstat("to-m").st_mtime_ns)
    result("file's time", lambda: os.stat("m").st_mtime_ns)
    before = os.stat("m").st_ctime_ns
    os.chmod("m", 0o640)
    result("ctime moves", lambda: os.stat("m").st_ctime_ns > before)
    os.chmod("m", 0o4755)
    if os.geteuid() != 0:
        write("m", b"x", os.O_WRONLY)
        result("write clears setuid", look, "m")
        os.chmod("m", 0o400)
        result("not writable", os.open, "m", os.O_WRONLY)
        result("not mine", os.chown, "m", 0, 0)
    result("access", os.access, "m", os.R_OK)


def maps():
    write("map", b"a" * 10000)
    fd = os.open("map", os.O_RDWR)
    shared = mmap.mmap(fd, 10000)
    result("mapped", lambda: bytes(shared[9990:]))
    os.pwrite(fd, b"WRITTEN", 100)
    result("sees write", lambda: bytes(shared[100:107]))
    shared[5000:5006] = b"MAPPED"
    result("read sees map", os.pread, fd, 6, 5000)
    shared.flush()
    result("and by name", lambda: read("map")[5000:5006])
    private = mmap.mmap(fd, 10000, flags=mmap.MAP_PRIVATE)
    private[0:4] = b"mine"
    result("private stays", os.pread, fd, 4, 0)
    shared.close()
    child = os.fork()
    if child == 0:
        with open("map", "r+b") as other:
            other.write(b"child")
        os._exit(0)
    os.waitpid(child, 0)
    result("another process", os.pread, fd, 5, 0)
    os.close(fd)


def attributes():
    write("x", b"")
    result("none", os.listxattr, "x")
    result("set", os.setxattr, "x", "user.name", b"value")
    result("get", os.getxattr, "x", "user.name")
    result("list", os.listxattr, "x")
    result("create again", os.setxattr, "x", "user.name", b"", os.XATTR_CREATE)
    result("replace missing", os.setxattr, "x", "user.none", b"", os.XATTR_REPLACE)
    result("remove", os.removexattr, "x", "user.name")
    result("missing", os.getxattr, "x", "user.name")
    os.symlink("x", "to-x")
    result("on a link", lambda: os.setxattr("to-x", "user.a", b"", follow_symlinks=False))


def locks():
    write("l", b"0123456789")
    fd = os.open("l", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 5)

    def child(function):
        out, into = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(into, str(attempt(function)).encode())
            os._exit(0)
        os.close(into)
        os.waitpid(pid, 0)
        return os.read(out, 100).decode()

    result("held", child, lambda: fcntl.lockf(os.open("l", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 3))
    result("free", child, lambda: fcntl.lockf(os.open("l", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 3, 5))
    os.close(os.open("l", os.O_RDONLY))  # closing any descriptor of the file drops them (POSIX)
    result("dropped", child, lambda: fcntl.lockf(os.open("l", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 3))
    fcntl.flock(fd, fcntl.LOCK_EX)
    result("flock held", child, lambda: fcntl.flock(os.open("l", os.O_RDWR), fcntl.LOCK_SH | fcntl.LOCK_NB))
    result("flock inherited", child, lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))
    waiter, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(into, b"go")
        fcntl.flock(os.open("l", os.O_RDWR), fcntl.LOCK_EX)
        os._exit(0)
    os.read(waiter, 2)
    fcntl.flock(fd, fcntl.LOCK_UN)
    result("waiter", lambda: os.waitpid(pid, 0)[1])


def temporary():
    def make():
        fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
        os.write(fd, b"x")
        return os.fstat(fd).st_nlink, os.listdir(".")
    result("unnamed", make)


for experiment in (opens, appends, unlinked, renames, links, directories, sizes, modes, maps, attributes, locks, temporary):
    print("==", experiment.__name__)
    os.mkdir(experiment.__name__)
    here = os.getcwd()
    os.chdir(experiment.__name__)
    experiment()
    os.chdir(here)
