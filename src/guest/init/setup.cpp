// husk: bringing the guest's drivers and file systems up
#include "setup.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/mount.h>
#include <linux/time_types.h>

namespace husk::guest {
namespace {

using Path = Text<4200>;

/// Makes a directory and those above it.
void make_directories(const char* path) {
  Path part;
  part << path;
  char* const bytes = part.bytes();
  for (Size i = 1; bytes[i]; ++i) {
    if (bytes[i] != '/') continue;
    bytes[i] = 0;
    mkdir(bytes, 0755);
    bytes[i] = '/';
  }
  mkdir(bytes, 0755);
}

/// Mounts, making the mount point if it is not there.
Word mount_at(const char* source, const char* path, const char* type, Size flags, const char* options) {
  const Word first = mount(source, path, type, flags, options);
  if (first != -ENOENT) return first;
  make_directories(path);
  return mount(source, path, type, flags, options);
}

void need_mount(const Control& control, const char* source, const char* path, const char* type, Size flags,
                const char* options) {
  if (const Word error = mount_at(source, path, type, flags, options)) {
    Path text;
    text << "cannot mount " << type << " at " << path;
    fail(control, text.text(), "", error);
  }
}

enum class Changes { never, any };  ///< what may change in a share behind the guest's back

void mount_share(const Control& control, const Config& config, const char* tag, const char* path, bool read_only,
                 Changes changes) {
  const Size flags = MS_NOSUID | MS_NODEV | (read_only ? Size{MS_RDONLY} : 0);
  // With cache=none files could not be mapped; with loose, an overlay would not take the share as its upper layer.
  const char* const options = !config.ninep               ? nullptr
                              : changes == Changes::never ? "trans=virtio,version=9p2000.L,msize=1048576,cache=loose"
                                                          : "trans=virtio,version=9p2000.L,msize=1048576,cache=mmap";
  const Word error = mount_at(tag, path, config.ninep ? "9p" : "virtiofs", flags, options);
  if (error == -ENODEV && config.ninep)
    fail(control, "the kernel has no 9p (CONFIG_9P_FS), by which the host's files are shared");
  if (error == -ENODEV)
    fail(control, "the kernel has no virtio-fs (CONFIG_VIRTIO_FS), by which the host's files are shared");
  if (error == (config.ninep ? -ENOENT : -EINVAL)) fail(control, "the kernel does not find the share ", tag);
  if (error) fail(control, "cannot mount the share at ", path, error);
}

/// The driver of virtio consoles is there.
bool console_driver_exists() {
  mkdir("/sys", 0755);
  mount("sys", "/sys", "sysfs", 0, nullptr);
  const Word fd = open("/sys/class/virtio-ports", O_RDONLY | O_DIRECTORY);
  if (fd >= 0) close(fd);
  call(__NR_umount2, "/sys", Word{0});
  return fd >= 0;
}

}  // namespace

void mount_devices() {
  mkdir("/dev", 0755);
  mount("dev", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
}

void load_modules(const Control& control, const Config& config) {
  for (const char* module : config.modules) {
    const Word fd = open(module, O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail(control, "cannot open the kernel module ", module, fd);
    const Word error = call(__NR_finit_module, fd, "", 0);
    // Built in, or loaded as a dependency of another.
    if (error && error != -EEXIST) fail(control, "cannot load the kernel module ", module, error);
    close(fd);
  }
}

Word open_port(const Control& control, Port port, Word flags) {
  Text<64> path;
  path << "/dev/vport0p" << static_cast<unsigned long>(port);
  // The driver makes ports in work of its own, after it has found the device: a few milliseconds.
  constexpr long kStep = 200'000, kMost = 20'000'000'000 / kStep, kPatience = 20;
  for (long i = 0; i < kMost; ++i) {
    const Word fd = open(path.text(), flags | O_CLOEXEC);
    if (fd >= 0) return fd;
    if (fd != -ENOENT && fd != -ENXIO) fail(control, "cannot open ", path.text(), fd);
    if (i == kPatience && !console_driver_exists()) break;
    __kernel_timespec time{0, kStep};
    call(__NR_nanosleep, &time, nullptr);
  }
  fail(control, "the kernel does not find husk's console ports (CONFIG_VIRTIO_PCI, CONFIG_VIRTIO_CONSOLE)");
}

void make_root(const Control& control, const Config& config) {
  mkdir("/root", 0755);
  if (config.root) {
    mkdir("/lower", 0755);
    mount_share(control, config, config.root, "/lower", true, Changes::never);
    mkdir("/upper", 0755);
    if (config.upper) {
      mount_share(control, config, config.upper, "/upper", false, Changes::any);
    } else {
      need_mount(control, "upper", "/upper", "tmpfs", 0, "mode=0755");
    }
    mkdir("/upper/changes", 0755);
    mkdir("/upper/work", 0700);
    // A user's own directory cannot have trusted.* attributes (overlayfs.rst, "User xattr").
    const char* const options = config.upper ? "lowerdir=/lower,upperdir=/upper/changes,workdir=/upper/work,userxattr"
                                             : "lowerdir=/lower,upperdir=/upper/changes,workdir=/upper/work";
    const Word error = mount("root", "/root", "overlay", 0, options);
    if (error == -ENODEV) fail(control, "the kernel has no overlayfs (CONFIG_OVERLAY_FS)");
    if (error) fail(control, "cannot mount the root file system", "", error);
  } else {
    need_mount(control, "root", "/root", "tmpfs", 0, "mode=0755");
  }
  call(__NR_chdir, "/root");
  mkdir("dev", 0755);
  if (const Word error = mount("/dev", "dev", nullptr, MS_MOVE, nullptr)) fail(control, "cannot move /dev", "", error);
  need_mount(control, "proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr);
  need_mount(control, "sys", "sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr);
  need_mount(control, "devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666");
  need_mount(control, "shm", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
  // Only root can look at it.
  if (config.uid == 0) mount("debugfs", "sys/kernel/debug", "debugfs", 0, nullptr);
  call(__NR_symlink, "/proc/self/fd", "dev/fd");
  call(__NR_symlink, "fd/0", "dev/stdin");
  call(__NR_symlink, "fd/1", "dev/stdout");
  call(__NR_symlink, "fd/2", "dev/stderr");
  for (const char* path : config.fresh)
    need_mount(control, "tmpfs", path + 1, "tmpfs", MS_NOSUID | MS_NODEV,
               equal(path, "/run") ? "mode=0755" : "mode=1777");
  for (const Config::Share& share : config.shares)
    mount_share(control, config, share.tag, share.path + 1, share.read_only, Changes::any);
  // As switch_root(8): the initramfs itself cannot be unmounted, so the new root is put over it.
  Word error = mount(".", "/", nullptr, MS_MOVE, nullptr);
  if (!error) error = call(__NR_chroot, ".");
  if (!error) error = call(__NR_chdir, "/");
  if (error) fail(control, "cannot go into the root file system", "", error);
}

void give_names(const Config& config) {
  call(__NR_sethostname, config.hostname, strlen(config.hostname));
  for (const char* disk : config.disks) {
    Path path;
    path << "/dev/" << disk;
    call(__NR_chown, path.text(), config.uid, config.gid);
  }
}

}  // namespace husk::guest
