// husk: the 9P server: open files, directories, attributes, locks
#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <functional>

#include "hostfs/ninep.h"

namespace husk::hostfs {

namespace {
/// Whose a lock is: a process of a client, which goes by its host's name.
std::uint64_t owner_of(std::uint32_t process, std::string_view client) {
  return (std::uint64_t{std::hash<std::string_view>{}(client)} << 32) | process;
}
/// The last byte of a range as FUSE has it; a length of 0 reaches to the end of the file.
std::optional<std::uint64_t> last_of(std::uint64_t start, std::uint64_t length) {
  if (length == 0) return static_cast<std::uint64_t>(INT64_MAX);
  if (start > INT64_MAX || length - 1 > INT64_MAX - start) return std::nullopt;
  return start + length - 1;
}
}  // namespace

int Ninep::open(Message& message) {
  const std::uint32_t number = message.args.u32();
  std::uint32_t flags = message.args.u32();
  if (!message.args.ok()) return EINVAL;
  const auto fid = find(number);
  if (!fid) return fid.error();
  if (fid->kind != Fid::Kind::closed) return EINVAL;
  const auto kind = server_->nodes().kind(fid->node);
  if (!kind) return kind.error();
  const bool directory = kind->type == S_IFDIR;
  if (directory && (flags & (fuse::kOpenAccess | fuse::kOpenTruncate))) return EISDIR;
  if (flags & ninep::kOpenSync) flags |= fuse::kOpenSync;
  Question question(*this, message, fid->node, fid->uid);
  question.args.u32(flags & ~(fuse::kOpenCreate | fuse::kOpenExclusive));
  question.args.u32(fid->uid ? fuse::kOpenKillSuidgid : 0);
  if (const int error = question.ask(directory ? fuse::Op::opendir : fuse::Op::open)) return error;
  Fid opened = *fid;
  opened.kind = Fid::Kind::open;
  opened.directory = directory;
  opened.handle = question.answer().u64();
  Attributes attributes;
  int error = attributes_of(message, opened, attributes);
  if (!error) error = become(number, *fid, opened);
  if (error) {
    // The look-up stays with the fid.
    static_cast<void>(server_->nodes().hold(opened.node));
    release(message, opened);
    return error;
  }
  put_qid(message.reply, attributes);
  message.reply.u32(0);  // iounit: as much as a message holds
  return 0;
}

int Ninep::read(Message& message) {
  const std::uint32_t number = message.args.u32();
  const std::uint64_t offset = message.args.u64();
  const std::uint32_t wanted = message.args.u32();
  if (!message.args.ok()) return EINVAL;
  const auto fid = find(number);
  if (!fid) return fid.error();
  constexpr std::uint64_t kBefore = ninep::kHeader + ninep::kReadOut;
  const auto count =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(wanted, message.room - std::min(message.room, kBefore)));
  if (fid->kind == Fid::Kind::xattr_value) {
    const std::vector<std::uint8_t>& value = fid->xattr->value;
    const std::size_t at = static_cast<std::size_t>(std::min<std::uint64_t>(offset, value.size()));
    const std::size_t length = std::min<std::size_t>(count, value.size() - at);
    message.reply.u32(length);
    message.reply.text({reinterpret_cast<const char*>(value.data()) + at, length});
    return 0;
  }
  if (fid->kind != Fid::Kind::open) return EBADF;
  if (fid->directory) return EISDIR;
  Question question(*this, message, fid->node, fid->uid);
  question.args.u64(fid->handle);
  question.args.u64(offset);
  question.args.u32(count);
  if (const int error = question.ask(fuse::Op::read)) return error;
  message.placed = question.call.placed;
  message.reply.u32(message.placed);
  return 0;
}

int Ninep::write(Message& message) {
  const std::uint32_t number = message.args.u32();
  const std::uint64_t offset = message.args.u64();
  const std::uint32_t count = message.args.u32();
  constexpr std::uint64_t kBefore = ninep::kHeader + ninep::kWriteIn;
  if (!message.args.ok() || count > message.in_bytes - std::min(message.in_bytes, kBefore)) return EINVAL;
  const auto fid = find(number);
  if (!fid) return fid.error();
  if (fid->kind == Fid::Kind::xattr_new) {
    const std::lock_guard lock(mutex_);
    std::vector<std::uint8_t>& value = fid->xattr->value;
    if (offset != value.size() || count > fid->xattr->size - value.size()) return ENOSPC;
    value.resize(value.size() + count);
    gather(message.request.in, kBefore, std::span(value).subspan(static_cast<std::size_t>(offset)));
    message.reply.u32(count);
    return 0;
  }
  if (fid->kind != Fid::Kind::open || fid->directory) return EBADF;
  Question question(*this, message, fid->node, fid->uid);
  question.args.u64(fid->handle);
  question.args.u64(offset);
  question.args.u32(count);
  // Linux' client leaves it to the server to take the set-user-ID bit off what an ordinary user writes.
  question.args.u32(fid->uid ? fuse::kWriteKillSuidgid : 0);
  question.args.zeroes(16);
  if (const int error = question.ask(fuse::Op::write)) return error;
  message.reply.u32(question.answer().u32());
  return 0;
}

int Ninep::read_directory(Message& message) {
  const std::uint32_t number = message.args.u32();
  const std::uint64_t offset = message.args.u64();
  const std::uint32_t wanted = message.args.u32();
  if (!message.args.ok()) return EINVAL;
  const auto fid = find(number);
  if (!fid) return fid.error();
  if (fid->kind != Fid::Kind::open || !fid->directory) return EBADF;
  constexpr std::uint64_t kBefore = ninep::kHeader + ninep::kReadOut;
  const std::uint64_t count = std::min<std::uint64_t>(wanted, message.room - std::min(message.room, kBefore));
  Question question(*this, message, fid->node, fid->uid);
  question.args.u64(fid->handle);
  question.args.u64(offset);
  question.args.u32(count);
  // An entry takes no more room here than there.
  static_assert(ninep::kDirent <= fuse::kDirent);
  question.call.out_bytes = fuse::kOutHeader + count;
  if (const int error = question.ask(fuse::Op::readdir)) return error;
  const std::size_t at = message.reply.size();
  message.reply.u32(0);
  fuse::Reader entries = question.answer();
  while (entries.left()) {
    const std::uint64_t inode = entries.u64();
    const std::uint64_t next = entries.u64();
    const std::uint32_t length = entries.u32();
    const auto type = static_cast<std::uint8_t>(entries.u32());
    const auto name = entries.bytes(length);
    entries.skip(align_up(length, 8) - length);
    message.reply.u8(type == DT_DIR ? ninep::kQidDirectory : type == DT_LNK ? ninep::kQidSymlink : 0);
    message.reply.u32(0);
    message.reply.u64(inode);
    message.reply.u64(next);
    message.reply.u8(type);
    message.reply.u16(static_cast<std::uint16_t>(length));
    message.reply.text({reinterpret_cast<const char*>(name.data()), name.size()});
  }
  store_le<std::uint32_t>(&message.scratch.reply[at],
                          static_cast<std::uint32_t>(message.reply.size() - at - ninep::kReadOut));
  return 0;
}

int Ninep::attributes_of(Message& message, const Fid& fid, Attributes& attributes) {
  Question question(*this, message, fid.node, fid.uid);
  question.args.u32(fid.kind == Fid::Kind::open ? fuse::kGetattrHandle : 0);
  question.args.u32(0);
  question.args.u64(fid.handle);
  if (const int error = question.ask(fuse::Op::getattr)) return error;
  fuse::Reader answer = question.answer();
  answer.skip(fuse::kAttrOut - fuse::kAttr);
  attributes = read_attributes(answer);
  return 0;
}

int Ninep::get_attributes(Message& message) {
  const std::uint32_t number = message.args.u32();
  message.args.skip(8);  // which are wanted: all are as cheap as one
  if (!message.args.ok()) return EINVAL;
  const auto fid = find(number);
  if (!fid) return fid.error();
  Attributes attributes;
  if (const int error = attributes_of(message, *fid, attributes)) return error;
  fuse::Writer& out = message.reply;
  out.u64(ninep::kGetattrBasic);
  put_qid(out, attributes);
  out.u32(attributes.mode);
  out.u32(attributes.uid);
  out.u32(attributes.gid);
  out.u64(attributes.links);
  out.u64(attributes.device);
  out.u64(attributes.size);
  out.u64(attributes.block_size);
  out.u64(attributes.blocks);
  for (unsigned i = 0; i < 3; ++i) {
    out.u64(attributes.seconds[i]);
    out.u64(attributes.nanoseconds[i]);
  }
  out.zeroes(32);  // time of birth, generation, version of the data: not told
  return 0;
}

int Ninep::set_attributes(Message& message) {
  const std::uint32_t number = message.args.u32();
  const std::uint32_t valid = message.args.u32();
  const std::uint32_t mode = message.args.u32();
  const std::uint32_t uid = message.args.u32();
  const std::uint32_t gid = message.args.u32();
  const std::uint64_t size = message.args.u64();
  std::uint64_t seconds[2], nanoseconds[2];
  for (unsigned i = 0; i < 2; ++i) {
    seconds[i] = message.args.u64();
    nanoseconds[i] = message.args.u64();
  }
  if (!message.args.ok()) return EINVAL;
  const auto fid = find(number);
  if (!fid) return fid.error();
  static constexpr std::pair<std::uint32_t, std::uint32_t> kBits[] = {
      {ninep::kSetMode, fuse::kSetMode}, {ninep::kSetUid, fuse::kSetUid},     {ninep::kSetGid, fuse::kSetGid},
      {ninep::kSetSize, fuse::kSetSize}, {ninep::kSetAtime, fuse::kSetAtime}, {ninep::kSetMtime, fuse::kSetMtime}};
  std::uint32_t wanted = 0;
  for (const auto& [here, there] : kBits)
    if (valid & here) wanted |= there;
  if (!(valid & ninep::kSetAtimeGiven)) wanted |= fuse::kSetAtimeNow;
  if (!(valid & ninep::kSetMtimeGiven)) wanted |= fuse::kSetMtimeNow;
  if (fid->kind == Fid::Kind::open) wanted |= fuse::kSetHandle;
  if (std::max(nanoseconds[0], nanoseconds[1]) > UINT32_MAX) return EINVAL;
  Question question(*this, message, fid->node, fid->uid);
  fuse::Writer& args = question.args;
  args.u32(wanted);
  args.u32(0);
  args.u64(fid->handle);
  args.u64(size);
  args.u64(0);
  args.u64(seconds[0]);
  args.u64(seconds[1]);
  args.u64(0);
  args.u32(nanoseconds[0]);
  args.u32(nanoseconds[1]);
  args.u32(0);
  args.u32(mode);
  args.u32(0);
  args.u32(uid);
  args.u32(gid);
  args.u32(0);
  return question.ask(fuse::Op::setattr);
}

int Ninep::stat_file_system(Message& message) {
  const std::uint32_t number = message.args.u32();
  if (!message.args.ok()) return EINVAL;
  const auto fid = find(number);
  if (!fid) return fid.error();
  Question question(*this, message, fid->node, fid->uid);
  if (const int error = question.ask(fuse::Op::statfs)) return error;
  fuse::Reader answer = question.answer();
  std::uint64_t figures[5];  // blocks, free, available; files, free
  for (std::uint64_t& figure : figures) figure = answer.u64();
  const std::uint32_t block_size = answer.u32();
  const std::uint32_t name_length = answer.u32();
  message.reply.u32(ninep::kMagic);
  message.reply.u32(block_size);
  for (const std::uint64_t figure : figures) message.reply.u64(figure);
  message.reply.u64(0);  // fsid
  message.reply.u32(name_length);
  return 0;
}

int Ninep::sync(Message& message) {
  const std::uint32_t number = message.args.u32();
  if (!message.args.ok()) return EINVAL;
  // Old clients do not send it.
  const std::uint32_t data_only = message.args.left() >= 4 ? message.args.u32() : 0;
  const auto fid = find(number);
  if (!fid) return fid.error();
  if (fid->kind != Fid::Kind::open) return EBADF;
  Question question(*this, message, fid->node, fid->uid);
  question.args.u64(fid->handle);
  question.args.u32(data_only ? fuse::kFsyncData : 0);
  question.args.u32(0);
  return question.ask(fid->directory ? fuse::Op::fsyncdir : fuse::Op::fsync);
}

// ---- locks ----

int Ninep::lock(Message& message) {
  const std::uint32_t number = message.args.u32();
  const std::uint8_t type = message.args.u8();
  const std::uint32_t flags = message.args.u32();
  const std::uint64_t start = message.args.u64();
  const std::uint64_t length = message.args.u64();
  const std::uint32_t process = message.args.u32();
  bool good = true;
  const std::string client = text(message.args, good);
  const auto last = last_of(start, length);
  if (!good || !last) return EINVAL;
  const auto fid = find(number);
  if (!fid) return fid.error();
  if (fid->kind != Fid::Kind::open || fid->directory) return EBADF;
  const std::uint64_t owner = owner_of(process, client);
  const auto set = [&](std::uint64_t by) {
    Question question(*this, message, fid->node, fid->uid);
    question.args.u64(fid->handle);
    question.args.u64(by);
    question.args.u64(start);
    question.args.u64(*last);
    question.args.u32(type);
    question.args.u32(process);
    question.args.u32(0);
    return question.ask(fuse::Op::setlk);
  };
  int error = set(owner);
  if (error == 0 || error == EAGAIN) note_owner(number, owner);
  // The guest's kernel has let nobody of its own have what contradicts. So if the lock is in the way that another
  // process took by this fid, it is one lock: of an open file that both of them have (flock(2)), which looks the same
  // on the wire as one of a process.
  if (error == EAGAIN)
    for (const std::uint64_t other : fid->lock_owners)
      if (other != owner && set(other) == 0) error = 0;
  if (error == EAGAIN && (flags & ninep::kLockBlock)) return kLocked;
  if (error == EAGAIN) {
    message.reply.u8(ninep::kLockBlocked);
    return 0;
  }
  // Where locks are not the host's business, the guest's own are all there is.
  if (error && error != ENOSYS) return error;
  message.reply.u8(ninep::kLockSuccess);
  return 0;
}

void Ninep::note_owner(std::uint32_t number, std::uint64_t owner) {
  const std::lock_guard lock(mutex_);
  const auto found = fids_.find(number);
  if (found != fids_.end()) found->second.lock_owners.insert(owner);
}

int Ninep::get_lock(Message& message) {
  const std::uint32_t number = message.args.u32();
  const std::uint8_t type = message.args.u8();
  const std::uint64_t start = message.args.u64();
  const std::uint64_t length = message.args.u64();
  const std::uint32_t process = message.args.u32();
  bool good = true;
  const std::string client = text(message.args, good);
  const auto last = last_of(start, length);
  if (!good || !last) return EINVAL;
  const auto fid = find(number);
  if (!fid) return fid.error();
  if (fid->kind != Fid::Kind::open || fid->directory) return EBADF;
  Question question(*this, message, fid->node, fid->uid);
  question.args.u64(fid->handle);
  question.args.u64(owner_of(process, client));
  question.args.u64(start);
  question.args.u64(*last);
  question.args.u32(type);
  question.args.u32(process);
  question.args.u32(0);
  const int error = question.ask(fuse::Op::getlk);
  if (error && error != ENOSYS) return error;
  fuse::Reader answer = question.answer();
  const std::uint64_t held_start = error ? start : answer.u64();
  const std::uint64_t held_last = error ? *last : answer.u64();
  const auto held_type = static_cast<std::uint8_t>(error ? ninep::kUnlocked : answer.u32());
  message.reply.u8(held_type);
  message.reply.u64(held_start);
  message.reply.u64(held_last == INT64_MAX ? 0 : held_last - held_start + 1);
  // A process of the host's has no number in the guest.
  message.reply.u32(held_type == ninep::kUnlocked ? process : 0);
  message.reply.u16(static_cast<std::uint16_t>(client.size()));
  message.reply.text(client);
  return 0;
}

// ---- extended attributes ----

int Ninep::xattr_walk(Message& message) {
  const std::uint32_t number = message.args.u32();
  const std::uint32_t target = message.args.u32();
  bool good = true;
  const std::string name = text(message.args, good);
  if (!good || number == target) return EINVAL;
  const auto from = find(number);
  if (!from) return from.error();
  Question question(*this, message, from->node, from->uid);
  question.args.u32(ninep::kMostXattr);
  question.args.u32(0);
  if (!name.empty()) {
    question.args.text(name);
    question.args.u8(0);
  }
  const int error = question.ask(name.empty() ? fuse::Op::listxattr : fuse::Op::getxattr);
  if (error) return error == ENOSYS ? EOPNOTSUPP : error;
  Fid fid{.kind = Fid::Kind::xattr_value, .uid = from->uid, .node = from->node};
  fid.xattr = std::make_shared<Xattr>(name, message.scratch.inner_reply, 0, 0);
  message.reply.u64(fid.xattr->value.size());
  if (!server_->nodes().hold(fid.node)) return ESTALE;
  const NodeId held = fid.node;
  if (const int failed = add(target, std::move(fid))) {
    server_->nodes().forget(held, 1);
    return failed;
  }
  return 0;
}

int Ninep::xattr_create(Message& message) {
  const std::uint32_t number = message.args.u32();
  bool good = true;
  const std::string name = text(message.args, good);
  const std::uint64_t size = message.args.u64();
  const std::uint32_t flags = message.args.u32();
  if (!good || !message.args.ok()) return EINVAL;
  if (size > ninep::kMostXattr) return E2BIG;
  const auto fid = find(number);
  if (!fid) return fid.error();
  if (fid->kind != Fid::Kind::closed) return EINVAL;
  if (server_->options().read_only) return EROFS;
  Fid after = *fid;
  after.kind = Fid::Kind::xattr_new;
  after.xattr = std::make_shared<Xattr>(name, std::vector<std::uint8_t>{}, size, flags);
  return become(number, *fid, std::move(after));
}

int Ninep::set_new_xattr(Message& message, const Fid& fid) {
  const Xattr& xattr = *fid.xattr;
  if (xattr.value.size() != xattr.size) return EINVAL;
  // Linux' client has no other way to say that an attribute shall go.
  const bool remove = xattr.size == 0 && xattr.flags == ninep::kXattrReplace;
  Question question(*this, message, fid.node, fid.uid);
  if (!remove) {
    question.args.u32(xattr.size);
    question.args.u32(xattr.flags);
  }
  question.args.text(xattr.name);
  question.args.u8(0);
  if (!remove) question.args.text({reinterpret_cast<const char*>(xattr.value.data()), xattr.value.size()});
  const int error = question.ask(remove ? fuse::Op::removexattr : fuse::Op::setxattr);
  return error == ENOSYS ? EOPNOTSUPP : error;
}

}  // namespace husk::hostfs
