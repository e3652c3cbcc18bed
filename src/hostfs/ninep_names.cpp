// husk: the 9P server: names: walking, making, linking, renaming, removing
#include <cerrno>

#include "hostfs/ninep.h"

namespace husk::hostfs {

Outcome<NodeId> Ninep::step(Message& message, NodeId from, const std::string& name, Attributes& attributes) {
  if (name == "..") {
    const auto here = server_->nodes().location(from);
    if (!here) return std::unexpected(here.error());
    if (!server_->nodes().hold(here->parent)) return std::unexpected(ESTALE);
    if (const int error = attributes_of(message, {.node = here->parent}, attributes)) {
      server_->nodes().forget(here->parent, 1);
      return std::unexpected(error);
    }
    return here->parent;
  }
  Question question(*this, message, from);
  question.args.text(name);
  question.args.u8(0);
  if (const int error = question.ask(fuse::Op::lookup)) return std::unexpected(error);
  fuse::Reader answer = question.answer();
  const NodeId node = answer.u64();
  answer.skip(fuse::kEntryOut - fuse::kAttr - 8);
  // Of a name that is not there the server may tell that this is so for a while.
  if (node == 0) return std::unexpected(ENOENT);
  attributes = read_attributes(answer);
  return node;
}

int Ninep::walk(Message& message) {
  const std::uint32_t number = message.args.u32();
  const std::uint32_t target = message.args.u32();
  const std::uint16_t count = message.args.u16();
  if (!message.args.ok() || count > ninep::kMostNames) return EINVAL;
  std::vector<std::string> names;
  bool good = true;
  for (unsigned i = 0; i < count; ++i) names.push_back(text(message.args, good));
  if (!good) return EINVAL;
  const auto from = find(number);
  if (!from) return from.error();
  if (from->xattr || (from->kind == Fid::Kind::open && number == target)) return EINVAL;
  if (number != target && find(target)) return EINVAL;
  Fid to{.uid = from->uid, .node = from->node, .walked = from->walked};
  if (!server_->nodes().hold(to.node)) return ESTALE;
  const std::size_t at = message.reply.size();
  message.reply.u16(0);
  std::uint16_t walked = 0;
  for (const std::string& name : names) {
    Attributes attributes;
    const auto next = step(message, to.node, name, attributes);
    if (!next) {
      server_->nodes().forget(to.node, 1);
      if (walked == 0) return next.error();
      store_le<std::uint16_t>(&message.scratch.reply[at], walked);
      return 0;  // how far it went; there is no new fid then
    }
    server_->nodes().forget(to.node, 1);
    to.walked = name == ".." ? Location{} : Location{to.node, name};
    to.node = *next;
    put_qid(message.reply, attributes);
    ++walked;
  }
  store_le<std::uint16_t>(&message.scratch.reply[at], walked);
  const NodeId held = to.node;
  const int error = number == target ? become(number, *from, std::move(to)) : add(target, std::move(to));
  if (error)
    server_->nodes().forget(held, 1);
  else if (number == target)
    server_->nodes().forget(from->node, 1);
  return error;
}

int Ninep::create(Message& message) {
  const std::uint32_t number = message.args.u32();
  bool good = true;
  const std::string name = text(message.args, good);
  std::uint32_t flags = message.args.u32();
  const std::uint32_t mode = message.args.u32();
  const std::uint32_t gid = message.args.u32();
  if (!good || !message.args.ok()) return EINVAL;
  const auto fid = find(number);
  if (!fid) return fid.error();
  if (fid->kind != Fid::Kind::closed) return EINVAL;
  if (flags & ninep::kOpenSync) flags |= fuse::kOpenSync;
  Question question(*this, message, fid->node, fid->uid, gid);
  question.args.u32(flags | fuse::kOpenCreate);
  question.args.u32(mode);
  question.args.u64(0);
  question.args.text(name);
  question.args.u8(0);
  if (const int error = question.ask(fuse::Op::create)) return error;
  fuse::Reader answer = question.answer();
  Fid made{.kind = Fid::Kind::open, .uid = fid->uid, .node = answer.u64()};
  answer.skip(fuse::kEntryOut - fuse::kAttr - 8);
  const Attributes attributes = read_attributes(answer);
  made.handle = answer.u64();
  if (const int error = become(number, *fid, made)) {
    release(message, made);
    return error;
  }
  server_->nodes().forget(fid->node, 1);
  put_qid(message.reply, attributes);
  message.reply.u32(0);  // iounit: as much as a message holds
  return 0;
}

int Ninep::reply_made(Message& message, Question& question) {
  fuse::Reader answer = question.answer();
  const NodeId node = answer.u64();
  answer.skip(fuse::kEntryOut - fuse::kAttr - 8);
  put_qid(message.reply, read_attributes(answer));
  server_->nodes().forget(node, 1);
  return 0;
}

int Ninep::make_symlink(Message& message) {
  const std::uint32_t number = message.args.u32();
  bool good = true;
  const std::string name = text(message.args, good);
  const std::string target = text(message.args, good);
  const std::uint32_t gid = message.args.u32();
  if (!good || !message.args.ok()) return EINVAL;
  const auto fid = find(number);
  if (!fid) return fid.error();
  Question question(*this, message, fid->node, fid->uid, gid);
  question.args.text(name);
  question.args.u8(0);
  question.args.text(target);
  question.args.u8(0);
  if (const int error = question.ask(fuse::Op::symlink)) return error;
  return reply_made(message, question);
}

int Ninep::make_node(Message& message) {
  const std::uint32_t number = message.args.u32();
  bool good = true;
  const std::string name = text(message.args, good);
  const std::uint32_t mode = message.args.u32();
  const std::uint32_t major = message.args.u32();
  const std::uint32_t minor = message.args.u32();
  const std::uint32_t gid = message.args.u32();
  if (!good || !message.args.ok()) return EINVAL;
  const auto fid = find(number);
  if (!fid) return fid.error();
  Question question(*this, message, fid->node, fid->uid, gid);
  question.args.u32(mode);
  // Which device it would be matters only in so far as it is one.
  question.args.u32(major || minor ? 1 : 0);
  question.args.u64(0);
  question.args.text(name);
  question.args.u8(0);
  if (const int error = question.ask(fuse::Op::mknod)) return error;
  return reply_made(message, question);
}

int Ninep::make_directory(Message& message) {
  const std::uint32_t number = message.args.u32();
  bool good = true;
  const std::string name = text(message.args, good);
  const std::uint32_t mode = message.args.u32();
  const std::uint32_t gid = message.args.u32();
  if (!good || !message.args.ok()) return EINVAL;
  const auto fid = find(number);
  if (!fid) return fid.error();
  Question question(*this, message, fid->node, fid->uid, gid);
  question.args.u32(mode);
  question.args.u32(0);
  question.args.text(name);
  question.args.u8(0);
  if (const int error = question.ask(fuse::Op::mkdir)) return error;
  return reply_made(message, question);
}

int Ninep::make_link(Message& message) {
  const std::uint32_t directory = message.args.u32();
  const std::uint32_t number = message.args.u32();
  bool good = true;
  const std::string name = text(message.args, good);
  if (!good || !message.args.ok()) return EINVAL;
  const auto into = find(directory);
  const auto fid = find(number);
  if (!into || !fid) return EBADF;
  Question question(*this, message, into->node, into->uid);
  question.args.u64(fid->node);
  question.args.text(name);
  question.args.u8(0);
  if (const int error = question.ask(fuse::Op::link)) return error;
  fuse::Reader answer = question.answer();
  server_->nodes().forget(answer.u64(), 1);
  return 0;
}

int Ninep::rename_node(Message& message, NodeId from, const std::string& old_name, NodeId to,
                       const std::string& new_name) {
  Question question(*this, message, from);
  question.args.u64(to);
  question.args.text(old_name);
  question.args.u8(0);
  question.args.text(new_name);
  question.args.u8(0);
  return question.ask(fuse::Op::rename);
}

int Ninep::rename(Message& message) {
  const std::uint32_t number = message.args.u32();
  const std::uint32_t directory = message.args.u32();
  bool good = true;
  const std::string name = text(message.args, good);
  if (!good || !message.args.ok()) return EINVAL;
  const auto fid = find(number);
  const auto into = find(directory);
  if (!fid || !into) return EBADF;
  if (fid->node == fuse::kRootId) return EBUSY;
  const auto here = location_of(*fid);
  if (!here) return here.error();
  if (const int error = rename_node(message, here->parent, here->name, into->node, name)) return error;
  const std::lock_guard lock(mutex_);
  if (const auto found = fids_.find(number); found != fids_.end()) found->second.walked = {into->node, name};
  return 0;
}

Outcome<Location> Ninep::location_of(const Fid& fid) {
  if (fid.walked.parent)
    if (const auto there = server_->nodes().behind(fid.walked); there && there->id == fid.node) return fid.walked;
  return server_->nodes().location(fid.node);
}

int Ninep::rename_at(Message& message) {
  const std::uint32_t from = message.args.u32();
  bool good = true;
  const std::string old_name = text(message.args, good);
  const std::uint32_t to = message.args.u32();
  const std::string new_name = text(message.args, good);
  if (!good || !message.args.ok()) return EINVAL;
  const auto old_directory = find(from);
  const auto new_directory = find(to);
  if (!old_directory || !new_directory) return EBADF;
  return rename_node(message, old_directory->node, old_name, new_directory->node, new_name);
}

int Ninep::unlink(Message& message, NodeId directory, const std::string& name, bool is_directory) {
  Question question(*this, message, directory);
  question.args.text(name);
  question.args.u8(0);
  return question.ask(is_directory ? fuse::Op::rmdir : fuse::Op::unlink);
}

int Ninep::unlink_at(Message& message) {
  const std::uint32_t number = message.args.u32();
  bool good = true;
  const std::string name = text(message.args, good);
  const std::uint32_t flags = message.args.u32();
  if (!good || !message.args.ok() || (flags & ~ninep::kRemoveDirectory)) return EINVAL;
  const auto fid = find(number);
  if (!fid) return fid.error();
  return unlink(message, fid->node, name, flags & ninep::kRemoveDirectory);
}

int Ninep::remove(Message& message) {
  const std::uint32_t number = message.args.u32();
  if (!message.args.ok()) return EINVAL;
  const auto fid = find(number);
  if (!fid) return fid.error();
  int error = EBUSY;
  if (fid->node != fuse::kRootId) {
    const auto here = location_of(*fid);
    const auto kind = server_->nodes().kind(fid->node);
    error = !here ? here.error() : !kind ? kind.error() : 0;
    if (!error) error = unlink(message, here->parent, here->name, kind->type == S_IFDIR);
  }
  if (error < 0) return error;
  // The fid is gone, whatever has become of the file.
  Message end = message;
  end.args = fuse::Reader(message.scratch.in);
  const int clunked = clunk(end);
  return error ? error : clunked;
}

int Ninep::read_link(Message& message) {
  const std::uint32_t number = message.args.u32();
  if (!message.args.ok()) return EINVAL;
  const auto fid = find(number);
  if (!fid) return fid.error();
  Question question(*this, message, fid->node);
  if (const int error = question.ask(fuse::Op::readlink)) return error;
  const std::vector<std::uint8_t>& target = message.scratch.inner_reply;
  message.reply.u16(static_cast<std::uint16_t>(target.size()));
  message.reply.text({reinterpret_cast<const char*>(target.data()), target.size()});
  return 0;
}

}  // namespace husk::hostfs
