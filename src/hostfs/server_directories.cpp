// husk: the FUSE server: reading directories
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "hostfs/server_impl.h"

namespace husk::hostfs {

namespace {
/// What a directory keeps of the host's answer between two requests.
constexpr std::size_t kEntriesAtOnce = 8192;

/// The kernel's struct linux_dirent64 (getdents64(2)): u64 inode, s64 offset of the next, u16 length, u8 type, name.
struct HostEntry {
  std::uint64_t inode = 0, next_offset = 0;
  std::uint16_t length = 0;
  std::uint8_t type = 0;
  std::string_view name;
};
HostEntry decode(const std::uint8_t* at) {
  HostEntry entry;
  std::memcpy(&entry.inode, at, 8);
  std::memcpy(&entry.next_offset, at + 8, 8);
  std::memcpy(&entry.length, at + 16, 2);
  entry.type = at[18];
  entry.name = reinterpret_cast<const char*>(at + 19);
  return entry;
}
}  // namespace

int Server::Impl::read_directory(Call& call, bool plus) {
  const std::uint64_t handle = call.args.u64();
  const std::uint64_t offset = call.args.u64();
  const std::uint32_t size = call.args.u32();
  if (!call.args.ok()) return EINVAL;
  const auto found = file_of(call, handle, true);
  if (!found) return found.error();
  OpenFile& directory = **found;
  if (!directory.fd) return 0;
  const auto kind = nodes_->kind(call.node);
  if (!kind) return kind.error();
  const std::lock_guard lock(directory.mutex);
  if (offset != directory.offset) {
    if (offset > INT64_MAX || ::lseek(directory.fd.get(), static_cast<off_t>(offset), SEEK_SET) < 0) return EINVAL;
    directory.entries.clear();
    directory.next = 0;
    directory.offset = offset;
  }
  const std::uint64_t room = std::min<std::uint64_t>(size, call.out_bytes - std::min(call.out_bytes, fuse::kOutHeader));
  for (;;) {
    if (directory.next >= directory.entries.size()) {
      directory.entries.resize(kEntriesAtOnce);
      directory.next = 0;
      const long count =
          ::syscall(SYS_getdents64, directory.fd.get(), directory.entries.data(), directory.entries.size());
      const int error = errno;
      directory.entries.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
      if (count < 0 && call.reply.size() == 0) return error;
      if (count <= 0) {
        directory.entries.shrink_to_fit();
        return 0;
      }
    }
    const HostEntry entry = decode(&directory.entries[directory.next]);
    const std::size_t head = (plus ? fuse::kEntryOut : 0) + fuse::kDirent;
    const std::size_t whole = align_up(head + entry.name.size(), 8);
    if (call.reply.size() + whole > room) {
      // Not even one: the guest's buffer is too small for any use.
      return call.reply.size() == 0 ? EINVAL : 0;
    }
    const bool is_dot = entry.name == "." || entry.name == "..";
    std::uint64_t inode = nodes_->shown_inode(kind->device, entry.inode);
    if (plus) {
      Outcome<NodeTable::Entry> entered = std::unexpected(ENOENT);
      if (!is_dot) entered = nodes_->look_up(call.node, std::string(entry.name));
      if (entered) {
        put_entry(call.reply, *entered);
        inode = nodes_->shown_inode(device_of(entered->stat), entered->stat.stx_ino);
      } else {
        // Node 0: the name only, the guest looks it up if it wants to (fuse_direntplus_link).
        call.reply.zeroes(fuse::kEntryOut);
      }
    }
    call.reply.u64(inode);
    call.reply.u64(entry.next_offset);
    call.reply.u32(entry.name.size());
    call.reply.u32(entry.type);
    call.reply.text(entry.name);
    call.reply.align8();
    directory.next += entry.length;
    directory.offset = entry.next_offset;
  }
}

}  // namespace husk::hostfs
