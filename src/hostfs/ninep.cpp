// husk: the 9P server: messages in, answers out, fids, state
#include "hostfs/ninep.h"

#include <algorithm>
#include <cerrno>

#include "state/state.h"

namespace husk::hostfs {

using ninep::Type;

namespace {
/// Arguments of messages other than Twrite: the longest that Linux sends is a symbolic link's target.
constexpr std::size_t kMostArguments = 80 * 1024;
/// Linux with cache=loose keeps one for each name that it knows.
constexpr std::size_t kMostFids = std::size_t{1} << 20;
/// With kMostXattr, 16 MiB. Linux' client has one for each system call that is at it.
constexpr std::size_t kMostXattrFids = 256;

struct SavedFid {
  std::uint32_t number = 0;
  std::uint8_t kind = 0;
  bool directory = false;
  std::uint32_t uid = 0;
  std::uint64_t node = 0, handle = 0;
  std::string xattr_name;
  std::vector<std::uint8_t> xattr_value;
  std::uint64_t xattr_size = 0;
  std::uint32_t xattr_flags = 0;
  std::uint64_t walked_parent = 0;
  std::string walked_name;
  static constexpr auto state() {
    using state::field;
    using S = SavedFid;
    return std::tuple{field(1, "number", &S::number),
                      field(2, "kind", &S::kind).max(3),
                      field(3, "directory", &S::directory),
                      field(4, "uid", &S::uid),
                      field(5, "node", &S::node),
                      field(6, "handle", &S::handle),
                      field(7, "xattr_name", &S::xattr_name),
                      field(8, "xattr_value", &S::xattr_value),
                      field(9, "xattr_size", &S::xattr_size).max(ninep::kMostXattr),
                      field(10, "xattr_flags", &S::xattr_flags),
                      field(11, "walked_parent", &S::walked_parent),
                      field(12, "walked_name", &S::walked_name)};
  }
};
struct SavedNinep {
  std::uint32_t message_size = 0;
  std::vector<std::uint8_t> session;  ///< the FUSE server's
  std::vector<SavedFid> fids;
  static constexpr auto state() {
    using state::field;
    using S = SavedNinep;
    return std::tuple{field(1, "message_size", &S::message_size).range(ninep::kLeastMessage, ninep::kMostMessage),
                      field(2, "session", &S::session), field(3, "fids", &S::fids)};
  }
};

void put_header(std::span<const core::ShareSpan> out, std::uint64_t length, Type type, std::uint64_t tag,
                bool is_answer) {
  std::array<std::uint8_t, ninep::kHeader> header;
  store_le<std::uint32_t>(&header[0], static_cast<std::uint32_t>(length));
  header[4] = static_cast<std::uint8_t>(static_cast<unsigned>(type) + (is_answer ? 1 : 0));
  store_le<std::uint16_t>(&header[5], static_cast<std::uint16_t>(tag));
  scatter(out, 0, header);
}
}  // namespace

std::unique_ptr<core::ShareBackend> Server::attach_ninep(mem::LockDomain& domain) {
  return make_port(std::make_shared<Ninep>(impl_), domain, impl_->options().threads);
}

// ---- messages ----

Protocol::Identity Ninep::identify(const core::ShareRequest& request) const {
  std::array<std::uint8_t, ninep::kHeader + 5> start{};
  gather(request.in, 0, start);
  Identity who{.id = load_le<std::uint16_t>(&start[5])};
  switch (static_cast<Type>(start[4])) {
    case Type::flush:
      who.effect = Effect::cancels;
      who.about = load_le<std::uint16_t>(&start[ninep::kHeader]);
      break;
    case Type::lock:
    case Type::clunk:
    case Type::remove: who.effect = Effect::frees_locks; break;
    default: break;
  }
  return who;
}

std::uint64_t Ninep::refuse(const core::ShareRequest& request, std::uint64_t tag, int error) const {
  if (total(request.out) < ninep::kErrorMessage) return 0;
  std::array<std::uint8_t, 4> code;
  store_le<std::uint32_t>(code.data(), static_cast<std::uint32_t>(error));
  scatter(request.out, ninep::kHeader, code);
  put_header(request.out, ninep::kErrorMessage, Type::rlerror, tag, false);
  return ninep::kErrorMessage;
}

Protocol::Answer Ninep::handle(const core::ShareRequest& request, Scratch& scratch, bool may_block) {
  std::array<std::uint8_t, ninep::kHeader> header;
  if (gather(request.in, 0, header) != header.size()) return {};
  const std::uint32_t length = load_le<std::uint32_t>(&header[0]);
  const auto type = static_cast<Type>(header[4]);
  const std::uint16_t tag = load_le<std::uint16_t>(&header[5]);
  const std::uint32_t agreed = message_size_;
  const std::uint32_t most_message = agreed ? agreed : ninep::kMostMessage;
  scratch.reply.clear();
  Message message{.args = {},
                  .reply = fuse::Writer(scratch.reply),
                  .request = request,
                  .scratch = scratch,
                  .may_block = may_block,
                  .in_bytes = length,
                  .room = std::min<std::uint64_t>(total(request.out), most_message)};
  if (length < ninep::kHeader || length > total(request.in)) return {0, refuse(request, tag, EINVAL)};
  if (length > most_message) return {0, refuse(request, tag, EMSGSIZE)};
  // The data of a Twrite goes to the file from where it is.
  const std::size_t most = type == Type::write ? ninep::kWriteIn : kMostArguments;
  if (length - ninep::kHeader > most && type != Type::write) return {0, refuse(request, tag, E2BIG)};
  scratch.in.resize(std::min<std::size_t>(length - ninep::kHeader, most));
  gather(request.in, ninep::kHeader, scratch.in);
  message.args = fuse::Reader(scratch.in);
  const int error = dispatch(type, message);
  if (error < 0) return {error, 0};
  if (error) return {0, refuse(request, tag, error)};
  const std::uint64_t written = ninep::kHeader + scratch.reply.size() + message.placed;
  if (written > message.room) return {0, refuse(request, tag, EMSGSIZE)};
  scatter(request.out, ninep::kHeader, scratch.reply);
  put_header(request.out, written, type, tag, true);
  return {0, written};
}

int Ninep::dispatch(Type type, Message& message) {
  if (type == Type::version) return negotiate(message);
  if (!message_size_) return EIO;
  switch (type) {
    case Type::attach: return attach(message);
    case Type::flush: return 0;
    case Type::walk: return walk(message);
    case Type::clunk: return clunk(message);
    case Type::remove: return remove(message);
    case Type::lopen: return open(message);
    case Type::lcreate: return create(message);
    case Type::read: return read(message);
    case Type::write: return write(message);
    case Type::readdir: return read_directory(message);
    case Type::getattr: return get_attributes(message);
    case Type::setattr: return set_attributes(message);
    case Type::statfs: return stat_file_system(message);
    case Type::symlink: return make_symlink(message);
    case Type::mknod: return make_node(message);
    case Type::mkdir: return make_directory(message);
    case Type::link: return make_link(message);
    case Type::rename: return rename(message);
    case Type::renameat: return rename_at(message);
    case Type::unlinkat: return unlink_at(message);
    case Type::readlink: return read_link(message);
    case Type::fsync: return sync(message);
    case Type::lock: return lock(message);
    case Type::getlock: return get_lock(message);
    case Type::xattrwalk: return xattr_walk(message);
    case Type::xattrcreate: return xattr_create(message);
    default: return EOPNOTSUPP;
  }
}

std::string Ninep::text(fuse::Reader& reader, bool& good) {
  const auto bytes = reader.bytes(reader.u16());
  std::string text(bytes.begin(), bytes.end());
  good = good && reader.ok() && text.find('\0') == std::string::npos;
  return text;
}

Attributes Ninep::read_attributes(fuse::Reader& reader) {
  Attributes a;
  a.inode = reader.u64();
  a.size = reader.u64();
  a.blocks = reader.u64();
  for (std::uint64_t& time : a.seconds) time = reader.u64();
  for (std::uint32_t& time : a.nanoseconds) time = reader.u32();
  a.mode = reader.u32();
  a.links = reader.u32();
  a.uid = reader.u32();
  a.gid = reader.u32();
  a.device = reader.u32();
  a.block_size = reader.u32();
  reader.skip(4);
  return a;
}

void Ninep::put_qid(fuse::Writer& out, const Attributes& attributes) {
  const std::uint32_t type = attributes.mode & S_IFMT;
  out.u8(type == S_IFDIR ? ninep::kQidDirectory : type == S_IFLNK ? ninep::kQidSymlink : 0);
  // Changes when the contents do, as far as a time can tell.
  out.u32(attributes.seconds[1] ^ attributes.nanoseconds[1] ^ (attributes.size << 8));
  out.u64(attributes.inode);
}

Ninep::Question::Question(Ninep& owner, Message& message, NodeId node, std::uint32_t uid, std::uint32_t gid)
    : args(message.scratch.inner_in),
      call{.node = node,
           .uid = uid,
           .gid = gid,
           .args = {},
           .reply = fuse::Writer(message.scratch.inner_reply),
           .in = message.request.in,
           .out = message.request.out,
           .in_bytes = message.in_bytes,
           .out_bytes = message.room,
           .data_in = ninep::kHeader + ninep::kWriteIn,
           .data_out = ninep::kHeader + ninep::kReadOut,
           .may_block = message.may_block},
      owner_(owner),
      message_(message) {
  message.scratch.inner_in.clear();
  message.scratch.inner_reply.clear();
}

int Ninep::Question::ask(fuse::Op op) {
  call.args = fuse::Reader(message_.scratch.inner_in);
  return owner_.server_->dispatch(op, call);
}

// ---- the session ----

int Ninep::negotiate(Message& message) {
  const std::uint32_t wanted = message.args.u32();
  bool good = true;
  const std::string version = text(message.args, good);
  if (!good) return EINVAL;
  if (wanted < ninep::kLeastMessage) return EMSGSIZE;
  const std::uint32_t agreed = std::min(wanted, ninep::kMostMessage);
  const bool known = version == ninep::kVersion;
  reset();
  if (known) {
    server_->begin(0);
    message_size_ = agreed;
  }
  const std::string_view answer = known ? ninep::kVersion : "unknown";
  message.reply.u32(agreed);
  message.reply.u16(static_cast<std::uint16_t>(answer.size()));
  message.reply.text(answer);
  return 0;
}

int Ninep::attach(Message& message) {
  const std::uint32_t number = message.args.u32();
  const std::uint32_t authenticated = message.args.u32();
  bool good = true;
  text(message.args, good);  // the user's name, which means nothing to the host
  const std::string tree = text(message.args, good);
  const std::uint32_t user = message.args.u32();
  if (!good || !message.args.ok() || authenticated != ninep::kNoFid) return EINVAL;
  Fid fid{.uid = user == ninep::kNoUser ? 0 : user, .node = fuse::kRootId};
  if (!server_->nodes().hold(fid.node)) return EIO;
  // The name of a tree is the path of a directory in the share.
  Attributes attributes;
  int error = attributes_of(message, fid, attributes);
  for (std::size_t at = 0; !error && at < tree.size();) {
    const std::size_t slash = std::min(tree.find('/', at), tree.size());
    const std::string name = tree.substr(at, slash - at);
    at = slash + 1;
    if (name.empty()) continue;
    const auto next = step(message, fid.node, name, attributes);
    server_->nodes().forget(fid.node, 1);
    fid.node = next ? *next : fuse::kRootId;
    error = next ? 0 : next.error();
  }
  if (!error) error = add(number, fid);
  if (error) {
    server_->nodes().forget(fid.node, 1);
    return error;
  }
  put_qid(message.reply, attributes);
  return 0;
}

Outcome<Ninep::Fid> Ninep::find(std::uint32_t number) const {
  const std::lock_guard lock(mutex_);
  const auto found = fids_.find(number);
  if (found == fids_.end()) return std::unexpected(EBADF);
  return found->second;
}

int Ninep::add(std::uint32_t number, Fid fid) {
  const std::lock_guard lock(mutex_);
  if (number == ninep::kNoFid) return EINVAL;
  const bool holds_xattr = fid.holds_xattr();
  if (fids_.size() >= kMostFids || (holds_xattr && xattr_fids_ >= kMostXattrFids)) return ENFILE;
  if (!fids_.emplace(number, std::move(fid)).second) return EINVAL;
  xattr_fids_ += holds_xattr;
  return 0;
}

int Ninep::become(std::uint32_t number, const Fid& before, Fid after) {
  const std::lock_guard lock(mutex_);
  const auto found = fids_.find(number);
  if (found == fids_.end() || found->second.node != before.node || found->second.kind != Fid::Kind::closed)
    return ESTALE;
  if (after.holds_xattr() && xattr_fids_ >= kMostXattrFids) return ENFILE;
  xattr_fids_ += after.holds_xattr();
  found->second = std::move(after);
  return 0;
}

void Ninep::release(Message& message, const Fid& fid) {
  if (fid.kind == Fid::Kind::open) {
    // What has been locked by this fid: there is no other end to a lock of a client that is gone.
    for (const std::uint64_t owner : fid.lock_owners) {
      Question question(*this, message, fid.node);
      question.args.u64(fid.handle);
      question.args.u64(0);
      question.args.u64(owner);
      static_cast<void>(question.ask(fuse::Op::flush));
    }
    Question question(*this, message, fid.node);
    question.args.u64(fid.handle);
    question.args.u64(0);
    question.args.u64(0);
    static_cast<void>(question.ask(fid.directory ? fuse::Op::releasedir : fuse::Op::release));
  }
  server_->nodes().forget(fid.node, 1);
}

int Ninep::clunk(Message& message) {
  const std::uint32_t number = message.args.u32();
  if (!message.args.ok()) return EINVAL;
  Fid fid;
  {
    const std::lock_guard lock(mutex_);
    const auto found = fids_.find(number);
    if (found == fids_.end()) return EBADF;
    fid = std::move(found->second);
    fids_.erase(found);
    xattr_fids_ -= fid.holds_xattr();
  }
  const int error = fid.kind == Fid::Kind::xattr_new ? set_new_xattr(message, fid) : 0;
  release(message, fid);
  return error;
}

void Ninep::reset() {
  message_size_ = 0;
  {
    const std::lock_guard lock(mutex_);
    fids_.clear();
    xattr_fids_ = 0;
  }
  server_->reset();
}

// ---- state ----

std::vector<std::uint8_t> Ninep::save() const {
  if (!message_size_) return {};
  SavedNinep saved{.message_size = message_size_, .session = server_->save(), .fids = {}};
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [number, fid] : fids_) {
      SavedFid one{.number = number,
                   .kind = static_cast<std::uint8_t>(fid.kind),
                   .directory = fid.directory,
                   .uid = fid.uid,
                   .node = fid.node,
                   .handle = fid.handle,
                   .xattr_name = {},
                   .xattr_value = {},
                   .walked_parent = fid.walked.parent,
                   .walked_name = fid.walked.name};
      if (fid.xattr) {
        one.xattr_name = fid.xattr->name;
        one.xattr_value = fid.xattr->value;
        one.xattr_size = fid.xattr->size;
        one.xattr_flags = fid.xattr->flags;
      }
      saved.fids.push_back(std::move(one));
    }
  }
  std::ranges::sort(saved.fids, {}, &SavedFid::number);
  state::StateWriter writer;
  writer.record(saved);
  return std::move(writer).take();
}

Status Ninep::load(std::span<const std::uint8_t> state) {
  if (state.empty()) {
    reset();
    return {};
  }
  SavedNinep saved;
  state::StateReader reader(state);
  HUSK_TRY(reader.record(saved));
  // A state without it would be one with it that was cut short.
  if (saved.message_size == 0 || saved.session.empty())
    return fail("the saved session lacks its message size or files");
  if (saved.fids.size() > kMostFids) return fail("the saved session has {} fids", saved.fids.size());
  std::unordered_map<std::uint32_t, Fid> fids;
  std::size_t xattr_fids = 0;
  for (SavedFid& one : saved.fids) {
    Fid fid{.kind = static_cast<Fid::Kind>(one.kind),
            .directory = one.directory,
            .uid = one.uid,
            .node = one.node,
            .handle = one.handle,
            .xattr = {},
            .lock_owners = {},
            .walked = {one.walked_parent, std::move(one.walked_name)}};
    if (fid.walked.parent && !is_plain_name(fid.walked.name))
      return fail("the saved session has fid {} under a name that cannot be", one.number);
    if (one.xattr_value.size() > (fid.kind == Fid::Kind::xattr_new ? one.xattr_size : ninep::kMostXattr) ||
        one.xattr_name.find('\0') != std::string::npos)
      return fail("the saved session has an extended attribute that cannot be, in fid {}", one.number);
    if (fid.holds_xattr())
      fid.xattr = std::make_shared<Xattr>(std::move(one.xattr_name), std::move(one.xattr_value), one.xattr_size,
                                          one.xattr_flags);
    xattr_fids += fid.holds_xattr();
    if (one.number == ninep::kNoFid || !fids.emplace(one.number, std::move(fid)).second)
      return fail("the saved session has a fid {} that cannot be", one.number);
  }
  if (xattr_fids > kMostXattrFids) return fail("the saved session has {} extended attributes open", xattr_fids);
  HUSK_TRY(server_->load(saved.session));
  const std::lock_guard lock(mutex_);
  fids_ = std::move(fids);
  xattr_fids_ = xattr_fids;
  message_size_ = saved.message_size;
  return {};
}

}  // namespace husk::hostfs
